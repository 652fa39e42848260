"""Valid random records of the seven scenarios, and plain ones with given sizes. Texts are ours."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from runner.nodes.proactive.records import DIRECTIONS, SCENARIOS, Record, directions, parse_record

ABSTAIN = ("I cannot answer.", "I do not know.", "I cannot tell what it is.")
NAMES = ("Cup.", "Pear.", "Boat.", "Great_pyrenees.", "Ursula von der leyen.", "Hammer.", "Snow leopard.", "Tea pot.")
QUALITY = (
    "Increase the brightness.", "Raise the contrast.", "Make the colours stronger.", "Sharpen the image.", "Remove the noise.",
    "Use less compression.", "Raise the resolution.", "Remove the artifacts.",
)  # fmt: skip
SIDE = {side: f"Move the camera {'to the ' if side in ('left', 'right') else ''}{side}." for side in ("left", "right", "up", "down")}  # fmt: skip
REQUESTS = {
    "ROD": ("Move the red blocks to the left.", "Move the red blocks to the right."),
    "VSOD": ("Rewind the video.", "Wait for the occlusion to disappear."),
    "MVP-N": ("Rotate the object.",), "QD": ("Add more details to the drawing.",),
    "CIT": ("Rewind the video.", "Wait for the object to appear."), "IN-C": QUALITY[:4],
}  # fmt: skip
TEMPLATES = {
    "ROD": "ROD/{id}-s{{image}}.png", "VSOD": "VSOD/{id}/{{image}}.jpg", "MVP-N": "MVPN/{id}/{{informative}}/{{image}}.jpg",
    "IN-C": "INC/{{level}}/{id}.jpg", "QD": "QD/{id}/{{image}}.png", "CIT": "CIT/{id}/{{image}}.jpg", "COCO": "COCO/{id}.jpg",
}  # fmt: skip


def published(scenario: str, number: int = 1, n: int = 5, **changes: Any) -> dict[str, Any]:
    """One sample in the published layout with ``n`` frames; ``changes`` replace fields."""
    first, reference = {"ROD": (n // 2, 0), "VSOD": (n // 2, 0), "IN-C": (n, 1), "CIT": (0, n - 1), "COCO": (0, 0)}.get(scenario, (0, n - 1))  # fmt: skip
    data = {
        "id": number, "image_template": TEMPLATES[scenario].format(id=number), "first_image": first, "num_images": n,
        "reference_image": reference, "prompt": "What is it?", "options": [ABSTAIN[0], *REQUESTS.get(scenario, ())],
        "categories": list(NAMES[:4]), "answer": NAMES[2],
    }  # fmt: skip
    data |= {
        "VSOD": {"strong_occlusions": True},
        "MVP-N": {"valid_images": [3 + 2 * k for k in range(n)], "reference_image": 3 + 2 * (n - 1)},
        "IN-C": {"quality_answer": QUALITY[1]}, "CIT": {"step_size": 1, "max_steps": n},
        "COCO": {"num_images": 1, "direction": "left", "granularity": n, "horizontal_step": 10, "vertical_step": 10,
                 "crop": {"top": 100, "left": 100, "height": 150, "width": 150}},
    }.get(scenario, {})  # fmt: skip
    data |= changes
    if scenario == "COCO" and "options" not in changes:
        sides = tuple(data["direction"].split("_")) if data["direction"] != "zoom" else ()
        data["options"] = [*(SIDE[side] for side in sides), *(() if sides else ("Move farther from the object.",)), ABSTAIN[0]]  # fmt: skip
    return data


def record(scenario: str, number: int = 1, n: int = 5, **changes: Any) -> Record:
    """``published``, parsed."""
    return parse_record(scenario, published(scenario, number, n, **changes))


@st.composite
def records(draw: st.DrawFn, scenario: str | None = None) -> Record:
    """Valid records; small numbers of frames; options and categories in any order."""
    key = scenario or draw(st.sampled_from(SCENARIOS))
    n, number = draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    changes: dict[str, Any] = {}
    if key in ("ROD", "VSOD", "CIT"):
        changes |= {"first_image": draw(st.integers(0, n - 1)), "reference_image": draw(st.integers(0, n - 1))}
    if key == "MVP-N":
        views = draw(st.lists(st.integers(0, 9999), min_size=n, max_size=n, unique=True))
        changes |= {"valid_images": views, "first_image": 0, "reference_image": views[-1]}
    if key == "CIT":
        changes |= {"step_size": draw(st.integers(1, max(n - 1, 1))), "max_steps": draw(st.integers(1, 9))}
    if key == "IN-C":
        asked = draw(st.lists(st.sampled_from(QUALITY), min_size=4, max_size=4, unique=True))
        changes |= {"quality_answer": draw(st.sampled_from(asked)), "options": [*asked, draw(st.sampled_from(ABSTAIN))]}
    if key == "COCO":
        step = st.floats(0, 50, allow_nan=False)
        changes |= {"direction": draw(st.sampled_from(DIRECTIONS)), "granularity": draw(st.integers(1, 5)),
                    "horizontal_step": draw(step), "vertical_step": draw(step)}  # fmt: skip
    data = published(key, number, n, **changes)
    data["options"] = draw(st.permutations(data["options"]))
    data["categories"] = draw(st.permutations(draw(st.lists(st.sampled_from(NAMES), min_size=4, max_size=4, unique=True))))  # fmt: skip
    data["answer"] = draw(st.sampled_from(data["categories"]))
    return parse_record(key, data)


def sides(one: Record) -> tuple[str, ...]:
    """Sides of a crop, for tests that count its turns."""
    return directions(one)
