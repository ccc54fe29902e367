"""torch.nn as data: every module class of torch 2.13 (`tables/`), its arguments and its printing.

- `classes.lookup`: the row of a class: constructor arguments, and where an instance holds them,
- `classes.candidates`: the torch classes that a user's class may extend, by its attributes,
- `printer`: torch's own text for a module and for a whole model; `text`: for a value,
- `attributes`: reading a module's attributes, however torch pickles the class; and the types that
  callers supply (`TensorFacts`, `Describe`, `ModuleNode`).

Nothing is imported here: `show` of a state_dict needs `attributes` and `classes` only.
"""
