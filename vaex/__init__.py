"""vaex trains variational autoencoders and shows why each latent fires.

Everything is imported on first use, so that ``import vaex`` costs nothing.
"""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex import attention, callbacks, data, metrics, modules
    from vaex.build import load
    from vaex.explanation import explain

__version__ = "0.1.0"
__all__ = ["attention", "callbacks", "data", "explain", "load", "metrics", "modules"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"load": "vaex.build", "explain": "vaex.explanation"}
    | dict.fromkeys(["attention", "callbacks", "data", "metrics", "modules"]),
)
