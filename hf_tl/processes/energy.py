"""How much energy a training takes, by codecarbon (https://docs.codecarbon.io), which nothing else here needs."""

import contextlib
import logging
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_tl.reporting.console import say

if TYPE_CHECKING:
    from accelerate import Accelerator

QUIET: dict[str, Any] = {
    "output_methods": [],
    "output_handlers": [],
    "emissions_endpoint": None,
    "log_level": "error",
    # otherwise it takes over SIGTERM, after which a checkpoint is written
    "allow_multiple_runs": True,
}
"""Whatever the user's own settings for codecarbon say, nothing is written or sent."""
UNUSED_COUNTRY = "FRA"
"""codecarbon asks for one to turn energy into emissions, which are not told here: they depend on the place."""


@contextlib.contextmanager
def measured_energy(accelerator: "Accelerator", *, is_wanted: bool) -> Iterator[dict[str, Any]]:
    """Measure what the main process's machine takes while the context is open.

    Yields:
        A dictionary that holds `kwh` and `method` (who measured, and what was estimated) when the context ends; it
        stays empty where it is not wanted, on other processes, and where codecarbon could not measure.
    """
    measured: dict[str, Any] = {}
    if not (is_wanted and accelerator.is_main_process):
        yield measured
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # the level below holds after its first messages
    tracker = OfflineEmissionsTracker(country_iso_code=UNUSED_COUNTRY, **QUIET)
    tracker.start()
    try:
        yield measured
    finally:
        tracker.stop()
    if (found := getattr(tracker, "final_emissions_data", None)) is None:
        say(accelerator, "Energy    not measured: codecarbon could not; see its messages above")
        return
    parts = {"CPU": found.cpu_energy, "GPU": found.gpu_energy, "memory": found.ram_energy}
    told = ", ".join(f"{name} {kwh:.2g}" for name, kwh in parts.items() if kwh)
    measured |= {
        "kwh": float(found.energy_consumed),
        "method": f"{told}; of the whole machine during training, measured or estimated by codecarbon "
        f"{version('codecarbon')}",
    }
