"""The device that a name means.

What belongs here: names of devices, and the error for one that this machine does not have. What
does not: what computes there (`decoders`).
"""

import torch


def device_named(name: str) -> torch.device:
    """Return the device with this name: `auto` (a GPU if there is one), `cpu`, `cuda` or
    `cuda:<n>`. Raises ValueError, with what this machine has, for any other.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    known = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{gpu}" for gpu in range(n_gpus))]
    if name not in known:
        raise ValueError(
            f"device is {name!r}, which this machine does not have; allowed here: "
            f"{', '.join(['auto', *known])}"
        )
    return torch.device(name)
