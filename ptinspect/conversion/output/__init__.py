"""What an output file consists of: its object graph, storages, byte ranges and container."""
