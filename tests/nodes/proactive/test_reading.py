"""The published folder: what is read, and one error for what is not as published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runner.errors import DataError
from runner.nodes.proactive.reading import check_frames, files_of, needed_uris, read_scenario
from runner.nodes.proactive.records import DATASET_IDS, SCENARIOS, parse_record
from tests.nodes.proactive.material import published
from tests.nodes.proactive.published_folder import FRAMES, samples_file, write_frames, write_release, write_samples


def read(root: Path, scenario: str) -> list[str]:
    return [record.sample_id for record in read_scenario(scenario, samples_file(root, scenario)).records]


def test_all_seven_files_are_read_in_their_order_and_their_frames_are_there(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    files = files_of(root, None)
    assert list(files) == list(SCENARIOS)
    for scenario, path in files.items():
        found = read_scenario(scenario, path).records
        assert [record.sample_id for record in found] == ["1", "2"]
        expected = 2 * {"COCO": 1}.get(scenario, FRAMES[scenario])
        assert check_frames(root, found) == expected


def test_ids_may_be_texts_or_numbers(tmp_path: Path) -> None:
    write_samples(tmp_path, "QD", [published("QD", 1) | {"id": "cat 7"}, published("QD", 2)])
    assert read(tmp_path, "QD") == ["cat 7", "2"]


def test_weak_occlusions_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [published("VSOD", i, 5, strong_occlusions=i != 2) for i in (1, 2, 3)]
    write_samples(tmp_path, "VSOD", samples)
    found = read_scenario("VSOD", samples_file(tmp_path, "VSOD"))
    assert [record.sample_id for record in found.records] == ["1", "3"]
    assert found.weak == 1


def test_blank_lines_count_as_lines_and_a_mark_of_byte_order_is_passed_over(tmp_path: Path) -> None:
    path = samples_file(tmp_path, "QD")
    good, bad = json.dumps(published("QD", 1)), json.dumps(published("QD", 2) | {"answer": "Nobody."})
    path.write_bytes(b"\xef\xbb\xbf" + f"{good}\n\n{bad}\n".encode())
    with pytest.raises(DataError, match=r"jsonl:3: field 'answer'"):
        read(tmp_path, "QD")


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    samples_file(tmp_path, "QD").write_bytes(b"\n\n")
    with pytest.raises(DataError, match="no sample in it"):
        read_scenario("QD", samples_file(tmp_path, "QD"))


HOSTILE: list[tuple[bytes, str]] = [
    (b'{"id": "' + b"x" * 10_000_000 + b'"}', "longer than 1048576 bytes"),
    (b'{"id": 1, "prompt": "\xff\xfe"}', "byte 22 of the line is no UTF-8"),
    (b'{"id": 1, "prompt": ', "broken JSON at column"),
    (b"[1, 2]", "expected an object of fields, found list"),
    (b"[" * 200_000 + b"]" * 200_000, "no JSON that can be read"),
    (b'{"id": ' + b"9" * 5000 + b"}", "no JSON that can be read"),
    (b"null", "found NoneType"),
]


@pytest.mark.parametrize(("line", "message"), HOSTILE)
def test_a_hostile_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    good = json.dumps(published("ROD", 1)).encode()
    samples_file(tmp_path, "ROD").write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, "ROD")
    assert f"{DATASET_IDS['ROD']}_preprocessed.jsonl:2: " in caught.value.message
    assert len(str(caught.value)) < 2000


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("QD", {"image_template": "{image.__class__}"}, "image_template"),
    ("QD", {"image_template": "{image!r:>99999999}"}, "image_template"),
    ("QD", {"image_template": "../{image}.png"}, "image_template"),
    ("QD", {"num_images": 10**9}, "num_images"),
    ("QD", {"num_images": 1e999}, "num_images"),
    ("COCO", {"granularity": 10**9}, "granularity"),
    ("CIT", {"max_steps": 10**9}, "max_steps"),
    ("CIT", {"step_size": 6}, "step_size"),
    ("IN-C", {"quality_answer": "Turn it off."}, "quality_answer"),
    ("MVP-N", {"valid_images": [1]}, "valid_images"),
    ("COCO", {"direction": "sideways"}, "direction"),
    ("ROD", {"options": ["Move the red blocks to the left.", "Move the red blocks to the right."]}, "options"),
    ("ROD", {"categories": ["Cup.", "cup."], "answer": "Cup."}, "categories"),
    ("ROD", {"prompt": "two\nlines"}, "prompt"),
]


@pytest.mark.parametrize(("scenario", "changes", "field"), FIELDS)
def test_a_bad_field_is_named_with_file_and_line(
    tmp_path: Path, scenario: str, changes: dict[str, Any], field: str
) -> None:
    n = FRAMES[scenario]
    write_samples(tmp_path, scenario, [published(scenario, 1, n), published(scenario, 2, n) | changes])
    with pytest.raises(DataError) as caught:
        read(tmp_path, scenario)
    assert f"jsonl:2: field '{field}" in caught.value.message


def test_an_id_that_stands_twice_names_both_lines(tmp_path: Path) -> None:
    samples = [published("QD", 4), published("QD", 5), published("QD", 6) | {"id": "4"}]
    write_samples(tmp_path, "QD", samples)
    with pytest.raises(DataError, match=r"jsonl:3: field 'id': '4' stands in line 1 too"):
        read(tmp_path, "QD")


def test_a_missing_file_is_named_only_where_it_was_asked_for(tmp_path: Path) -> None:
    write_release(tmp_path, 1, ["QD"])
    assert list(files_of(tmp_path, None)) == ["QD"]
    with pytest.raises(DataError, match="has no Realistic-Occlusion-Dataset_"):
        files_of(tmp_path, ["QD", "ROD"])
    with pytest.raises(DataError, match="and no MVP-N_"):
        files_of(tmp_path / "QD", None)


def test_missing_frames_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    root = write_release(tmp_path, 2, ["ROD"])
    for number in (1, 2, 3, 4, 5):
        (root / f"ROD/1-s{number}.png").unlink()
    (root / "ROD/2-s0.png").unlink()
    (root / "ROD/2-s0.png").mkdir()  # a folder is no frame
    found = read_scenario("ROD", samples_file(root, "ROD")).records
    with pytest.raises(DataError) as caught:
        check_frames(root, found)
    assert "6 of 12 frames are missing" in caught.value.message
    assert "ROD/1-s5.png (ROD/1) and 1 more" in caught.value.message
    assert "2-s0" not in caught.value.message


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_release(tmp_path, 3, ["ROD", "VSOD"])
    records = [r for key in ("ROD", "VSOD") for r in read_scenario(key, samples_file(root, key)).records]
    listed: list[str] = []
    real = os.scandir

    def counting(path: Any) -> Any:
        listed.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", counting)
    assert check_frames(root, records) == 33
    assert len(listed) == 4  # one for ROD, one a video


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = write_release(tmp_path / "test", 1, ["QD"])
    records = read_scenario("QD", samples_file(root, "QD")).records
    frame = root / "QD/1/0002.png"
    frame.rename(outside / "0002.png")
    frame.symlink_to(outside / "0002.png")
    with pytest.raises(DataError, match="leads out of"):
        check_frames(root, records)
    samples_file(root, "QD").rename(outside / "samples")
    samples_file(root, "QD").symlink_to(outside / "samples")
    with pytest.raises(DataError, match="leads out of"):
        files_of(root, None)


def test_a_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    root = write_release(tmp_path / "test", 1, ["QD"])
    (root / "QD/1").rename(tmp_path / "elsewhere")
    (root / "QD/1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of"):
        check_frames(root, read_scenario("QD", samples_file(root, "QD")).records)


def test_a_path_from_the_root_of_the_machine_is_read_below_the_folder(tmp_path: Path) -> None:
    sample = published("COCO", 1, 3, image_template="/etc/hostname")
    write_samples(tmp_path, "COCO", [sample])
    records = read_scenario("COCO", samples_file(tmp_path, "COCO")).records
    assert needed_uris(records[0]) == ("etc/hostname",)
    with pytest.raises(DataError, match=r"1 of 1 frames are missing: etc/hostname"):
        check_frames(tmp_path, records)


def test_of_videos_only_the_frames_that_steps_reach_need_be_there(tmp_path: Path) -> None:
    sample = published("CIT", 1, 9, step_size=3, first_image=4, reference_image=8)
    write_frames(tmp_path, "CIT", sample)
    record = parse_record("CIT", sample)
    assert [int(Path(uri).stem) for uri in needed_uris(record)] == [1, 4, 7, 8]
    for number in (0, 2, 3, 5, 6):
        (tmp_path / f"CIT/1/{number}.jpg").unlink()
    assert check_frames(tmp_path, [record]) == 4


def test_the_damaged_frame_of_the_release_need_not_be_there(tmp_path: Path) -> None:
    template = "ROD/natural_bluebl_greenr-banana-s{image}.png"
    sample = published("ROD", 1, 14, image_template=template)
    write_frames(tmp_path, "ROD", sample)
    (tmp_path / template.format(image=6)).unlink()
    assert check_frames(tmp_path, [parse_record("ROD", sample)]) == 13
