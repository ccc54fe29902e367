"""Infer constructors, attributes and layers from instances or from state_dict keys."""
