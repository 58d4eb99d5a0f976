"""What random scenarios have found once, as short as it could be made, stays mended.

The first lines of each file say what promise was broken. Findings that were
the invariant's own mistake are here too: it must not make it again.
"""

from pathlib import Path

import pytest
import yaml

from asetwin.sim import fuzzing

FOLDER = Path(__file__).parent / "findings"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_is_not_found_again(path: Path) -> None:
    result, _ = fuzzing.play(yaml.safe_load(path.read_text(encoding="utf-8")), path.stem)
    assert result.passed, result.objections
