"""jsarag: end-to-end training of retrieval-augmented generation by joint stochastic approximation.

Importing the package is cheap: no torch until a submodule that needs it is imported.
"""

from jsarag._version import __version__

__all__ = ["__version__"]
