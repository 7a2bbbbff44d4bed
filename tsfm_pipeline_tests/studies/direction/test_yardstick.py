"""Test the yardstick of a checkpoint's volatility skill, and that it is left out without arch."""

import subprocess
import sys

import pytest

from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.studies.direction.yardstick import volatility_skill

WITHOUT_ARCH = """
import logging, sys
from importlib.metadata import EntryPoint
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
sys.modules["arch"] = None
import importlib.util
find = importlib.util.find_spec
from tsfm_pipeline import plugins
plugins.find_spec = lambda name: None if name == "arch" else find(name)
entry = EntryPoint("sp500-volatility", "tsfm_pipeline.studies.direction.yardstick:volatility_skill",
                   plugins.YARDSTICKS)
plugins._entries = lambda group: (entry,)
print(plugins.installed(plugins.YARDSTICKS))
"""


@pytest.mark.heavy
def test_the_bundled_checkpoint_knows_volatility_from_its_spread():
    figures = volatility_skill(load_forecaster("bundled"), None)
    assert figures.keys() == {"touch_up_auc_context_80", "touch_up_auc_context_512"}
    assert 0.72 < figures["touch_up_auc_context_80"] < 0.79
    assert 0.73 < figures["touch_up_auc_context_512"] < 0.79


def test_without_arch_the_yardstick_is_left_out_with_a_word():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ARCH], capture_output=True, text=True, check=True
    )
    assert "there is no module 'arch'" in done.stdout
    assert done.stdout.rstrip().endswith("()")
