"""netc: networks written as text, compiled to binaries that run and train.

    net = netc.load("specs/digits.net")
    exe = net.compile()
    exe(image=array)["p"]
"""

from netc.api import Net, load, load_artifact, train  # noqa: F401
from runtime.errors import NetcError  # noqa: F401

__version__ = "0.1.0"
