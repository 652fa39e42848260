"""What a person sees of a run, and what limits it."""

import io
import json

import pytest
from rich.console import Console

from runner.errors import BudgetExceeded, Interrupted
from runner.graph.journal import RunJournal, StepJournal, read_lines
from runner.graph.nodes import Placement
from runner.graph.progress import LabelledSink, LiveDisplay, PlainLines, Tally, default_sink, duration
from runner.graph.stop import RunBudget, StopSwitch
from runner.graph.workspace import RunFolder


def tell(sink):
    sink.plan(["images", "verdict"])
    sink.state("images", "running", None)
    inner = LabelledSink(sink, "images")
    inner.progress("whatever", "pictures", 0, 40)
    inner.progress("whatever", "pictures", 12, None)
    inner.usage("whatever", 1, 0, 100, 20, 0.5)
    inner.usage("whatever", 0, 1, 0, 0, None)
    inner.message("whatever", "warning", "[red] is not markup", "cat.jpg")
    sink.state("images", "done", 12.3)


def test_everything_is_added_up():
    tally = Tally()
    tell(tally)
    images = tally.steps["images"]
    assert (images.status, images.text()) == ("done", "12/40 pictures")
    assert tally.spent() == "1 model calls, 1 from the cache, 120 tokens, cost 0.5"


def test_plain_lines_say_it():
    stream = io.StringIO()
    sink = PlainLines(stream)
    tell(sink)
    sink.close()
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "images: running",
        "images: warning: cat.jpg: [red] is not markup",
        "images: done (12 s)",
        "1 model calls, 1 from the cache, 120 tokens, cost 0.5",
    ]
    assert "\x1b" not in stream.getvalue()


def test_the_live_display_shows_steps_counts_and_spending():
    stream = io.StringIO()
    sink = LiveDisplay(Console(file=stream, force_terminal=True, width=120, height=20))
    tell(sink)
    sink.close()
    for text in ("images", "verdict", "12/40 pictures", "120 tokens", "cost 0.5", "[red] is not markup"):
        assert text in stream.getvalue()


def test_many_steps_leave_room_for_those_at_work():
    sink = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=80, height=12))
    sink.plan([f"s{i}" for i in range(100)])
    sink.state("s70", "running", None)
    visible = [name for name, _ in sink._visible()]
    sink.close()
    assert visible[0] == "s70" and len(visible) == 8


def test_no_terminal_means_plain_lines():
    assert isinstance(default_sink(), PlainLines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


def test_budgets_count_over_all_attempts():
    budget = RunBudget({"llm_calls": 10, "tokens": None}, {"llm_calls": 8}, 0.0, StopSwitch())
    budget.spend("llm_calls", 2)
    budget.spend("tokens", 1e9)
    with pytest.raises(BudgetExceeded, match=r"budget\.llm_calls: 11 reached the limit 10 set by"):
        budget.spend("llm_calls", 1)


def test_stop_and_time_end_a_run():
    switch = StopSwitch()
    told = []
    switch.listen(lambda: told.append(1))
    budget = RunBudget({"minutes": 5}, {}, 200.0, switch)
    budget.check()
    switch.request()
    assert told == [1]
    with pytest.raises(Interrupted):
        budget.check()
    with pytest.raises(BudgetExceeded, match=r"budget\.minutes"):
        RunBudget({"minutes": 5}, {}, 301.0, StopSwitch()).check()


def test_journals_keep_calls_and_drop_messages_that_will_be_said_again(tmp_path):
    folder = RunFolder(tmp_path)
    first = RunJournal(folder, lambda place: True)
    for step in ("kept", "again"):
        journal = StepJournal(first, Placement("k=1", step))
        journal.llm_call(
            {"call_id": step, "attempts": 2, "cached": False, "prompt_tokens": 5, "completion_tokens": None}
        )
        journal.llm_call({"call_id": step + "!", "attempts": 0, "cached": True, "prompt_tokens": 5})
        journal.message({"level": "warning", "item": None, "text": "é"})
    with folder.calls_path.open("ab") as file:
        file.write(b'{"call_id": "torn')
    second = RunJournal(folder, lambda place: place.step == "kept")
    StepJournal(second, Placement("", "new")).llm_call({"call_id": "new", "attempts": 1, "cached": False})
    assert [row["call_id"] for row in second.calls()] == ["kept", "kept!", "again", "again!", "new"]
    assert [(m["variant"], m["step"], m["text"]) for m in second.messages()] == [("k=1", "kept", "é")]
    assert second.spent() == {"llm_calls": 5, "tokens": 10}
    assert all(json.loads(line) for line in folder.calls_path.read_bytes().splitlines())
    assert read_lines(tmp_path / "none") == []
