"""The card of a saved model is written again from its record."""

from pathlib import Path

import pytest
from publish.records import make_record, put
from publish.saved_models import saved

from hf_tl.card.figures.training import STAGES_FIGURE
from hf_tl.errors import PublishError
from hf_tl.publish.save import rewrite_card
from hf_tl.record import write_record

pytestmark = pytest.mark.long


def test_the_card_is_written_again_from_the_record(tmp_path: Path) -> None:
    folder, _ = saved("timm", tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rewrite_card(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == before.keys()
    assert (folder / "README.md").read_bytes() == before["README.md"]

    (folder / "README.md").write_text("mine")
    (folder / STAGES_FIGURE).unlink()
    assert rewrite_card(folder) == folder / "README.md"
    assert (folder / "README.md").read_bytes() == before["README.md"]
    assert (folder / "README.old.md").read_text() == "mine"
    assert (folder / STAGES_FIGURE).is_file()
    for name in ("model.safetensors", "config.json", "run.json"):
        assert (folder / name).read_bytes() == before[name]
    (folder / "README.md").write_text("mine again")
    rewrite_card(folder)
    assert (folder / "README.old.md").read_text() == "mine"
    assert (folder / "README.old-2.md").read_text() == "mine again"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "holds no run.json"),
        ("{", "cannot be read"),
        ("[]", "must map names to values"),
        ('{"schema_version": 99}', "schema version 99, and this hf_tl reads"),
        ('{"schema_version": 1}', "lacks"),
    ],
)
def test_a_card_that_cannot_be_written_again_stays(tmp_path: Path, record: str | None, said: str) -> None:
    (tmp_path / "README.md").write_text("as it was")
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(PublishError, match=said):
        rewrite_card(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", *(["run.json"] if record is not None else [])}
    assert (tmp_path / "README.md").read_text() == "as it was"


def test_an_export_gets_no_card(tmp_path: Path) -> None:
    write_record(make_record(), tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(PublishError, match="found an export"):
        rewrite_card(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "export.json"}


@pytest.mark.parametrize("status", ["training", "trained", "complete"])
def test_a_card_is_written_for_a_run_of_any_status(status: str, tmp_path: Path) -> None:
    measured = make_record().measured if status == "complete" else {}
    write_record(put(make_record(), status=status, measured=measured), tmp_path)
    stated = {"training": "Training has not ended", "trained": "Not evaluated", "complete": "**Test accuracy: 92.5%**"}
    assert stated[status] in rewrite_card(tmp_path).read_text()
