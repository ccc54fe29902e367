"""The rows: one string per idea, in the notation that `ptinspect.torchnn.classes` reads.

    [torch.nn.modules.conv]                 the module that the classes below live in
    Conv2d(_ConvNd)                         a class and its parent: fields it lacks are the parent's
      args    in_channels … stride=1~(1,1)  constructor arguments (below)
      print   {in_channels}, …              its `extra_repr` (see `ptinspect.torchnn.extra`)
      name    QuantizedConv2d               what `_get_name` answers, where not the class's name
      style   list                          which `__repr__` (see `ptinspect.torchnn.printer`)
      fill    padding_mode='zeros'          what `__setstate__` sets where an old file has nothing
      marks   weight bias transposed=False  attributes by which a class that extends it is known

Here a parent is the row whose fields are taken, mostly torch's own base class. An argument is
`name`, then each where needed, without blanks:

    =default      a literal, or the dotted name of what it is, which a dot at its beginning
                  puts into the class's own module; none: required
    ~stored       what an instance holds for that default, where it is not the default itself:
                  a literal, or `=other`, the same as the argument `other`
    <source       where an instance holds it, where not in the attribute of that name:
                  `-` nowhere (or only inside a tensor); `a.b` the attribute b of a;
                  `bias?` whether the attribute is not None (`bias?affine`: asked only where
                  `affine` is true); `#layers` how many children it has; `*` every child;
                  `x|y` y where x is absent; `@name` a function of `ptinspect.torchnn.arguments`

`*` alone: the arguments after it are keyword-only; `*args` and `**kwargs` as in Python;
`&factory` stands for `device=None<- dtype=None<-`.

Source of every row: the class of that name in torch 2.13.0, held against it by
tests/torchnn/test_against_torch.py.
"""
