"""Energy use of a training, measured by codecarbon (https://docs.codecarbon.io), an optional dependency."""

import contextlib
import logging
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_tl.reporting.console import say

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKER_SETTINGS: dict[str, Any] = {
    "output_methods": [],
    "output_handlers": [],
    "emissions_endpoint": None,
    "log_level": "error",
    # otherwise codecarbon handles SIGTERM, after which a checkpoint is written
    "allow_multiple_runs": True,
}
"""Settings that override the user's configuration of codecarbon, so that nothing is written or sent."""
UNUSED_COUNTRY = "FRA"
"""Country that codecarbon requires to compute emissions. They are not reported, because they depend on the place."""


@contextlib.contextmanager
def measured_energy(accelerator: "Accelerator", *, is_wanted: bool) -> Iterator[dict[str, Any]]:
    """Measure the energy use of the main process's machine while the context is open.

    Yields:
        A dictionary that holds `kwh` and `method` (measuring tool, and what was estimated) after the context. It stays
        empty if the measurement is off or fails, and on other processes.
    """
    measured: dict[str, Any] = {}
    if not (is_wanted and accelerator.is_main_process):
        yield measured
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # its log_level applies after its first messages
    tracker = OfflineEmissionsTracker(country_iso_code=UNUSED_COUNTRY, **TRACKER_SETTINGS)
    tracker.start()
    try:
        yield measured
    finally:
        tracker.stop()
    if (energy := getattr(tracker, "final_emissions_data", None)) is None:
        say(accelerator, "Leaving energy out of the card: codecarbon returned no measurement; see its messages above")
        return
    parts = {"CPU": energy.cpu_energy, "GPU": energy.gpu_energy, "memory": energy.ram_energy}
    shares = ", ".join(f"{name} {kwh:.2g}" for name, kwh in parts.items() if kwh)
    measured |= {
        "kwh": float(energy.energy_consumed),
        "method": f"{shares}; of the whole machine during training, measured or estimated by codecarbon "
        f"{version('codecarbon')}",
    }
