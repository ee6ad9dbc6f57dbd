"""ganrun: one TOML recipe is one experiment with a generative image model.

The public names, for authors of plugins, stand in `__init__.pyi`. Each is loaded when it is first used, so that
importing `ganrun` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
