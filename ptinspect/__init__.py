"""Reads what `torch.save` wrote: without torch, without the class, executing nothing."""
