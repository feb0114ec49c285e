"""wandb's own functions of sweeps; tests import them inside functions, for they take more than a second to load."""

from __future__ import annotations

import warnings

from wandb.apis.public.sweeps import _validate_config_and_fill_distribution as fill
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it is written for an older pydantic
    from sweeps import RunState, SweepConfig, next_run
    from sweeps.config.cfg import schema_violations_from_proposed_config as violations

__all__ = [
    "RunState",
    "SweepConfig",
    "create_sweep_command",
    "create_sweep_command_args",
    "fill",
    "next_run",
    "violations",
]
