"""What `wutong run` does again and what not, after changes, stops and kills. The stages are stand-ins."""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from tests.cluster.stand_in_folder import Folder, table, wait
from tests.cluster.starts import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("finished"))
    code, _, error = folder.run()
    assert (code, error) == (0, "")
    assert folder.begun == ["pretrain 0", "sft 0", "other 0", "hand 0"]
    (folder.path / "log").unlink()
    return folder


@pytest.fixture
def finished(finished_once: Folder, folder: Folder) -> Folder:
    """All stages are finished, and the log is empty."""
    shutil.copytree(finished_once.path, folder.path, dirs_exist_ok=True)
    return folder


DONE = [
    [name, "finished", "counted to 10", output]
    for name, output in (("pretrain", "pretrain/export"), ("sft", "sft/export"), ("other", "other/export"))
]


def test_what_is_finished_is_not_done_again_and_the_table_is_the_same(finished: Folder) -> None:
    code, out, _ = finished.run()
    assert (code, finished.begun) == (0, [])
    assert table(out) == [*DONE, ["hand", "finished", "counted to 10", str(finished.path / "handed")]]
    assert out.count("finished before, and nothing that it is made of has changed") == 4


def test_a_changed_setting_redoes_that_stage_and_those_that_read_from_it_and_nothing_is_lost(finished: Folder) -> None:
    (finished.path / "runs" / "all" / "sft" / "export" / "weights").touch()
    code, out, _ = finished.run("sft.num_steps=4")
    assert (code, finished.begun) == (0, ["sft 0", "hand 0"])
    assert "sft: begins anew: num_steps was 3, is 4" in out
    assert "hand: begins anew: sft was done anew" in out
    assert "sft is in sft.1 now" in out and "handed is in handed.1 now" in out
    assert (finished.path / "runs" / "all" / "sft.1" / "export" / "weights").exists()
    finished.run()
    assert finished.begun == ["sft 0", "hand 0"] * 2, "the setting was changed back"
    assert (finished.path / "runs" / "all" / "sft.2").is_dir()


def test_a_setting_of_the_surroundings_redoes_nothing(finished: Folder) -> None:
    finished.run("sft.logging.tensorboard=false", "sft.trainer.num_ranks=2", "sft.checkpoint.every_steps=1")
    assert finished.begun == []


def test_other_content_of_an_input_file_redoes_what_reads_it(finished: Folder) -> None:
    (finished.path / "texts.jsonl").write_text('{"text": "b"}\n')
    code, out, _ = finished.run()
    assert (code, finished.begun) == (0, ["pretrain 0", "sft 0", "other 0", "hand 0"])
    assert "pretrain: begins anew: texts.jsonl has other content" in out


def test_a_lost_output_is_made_again(finished: Folder) -> None:
    (finished.path / "runs" / "all" / "other" / "export").rmdir()
    _, out, _ = finished.run()
    assert finished.begun == ["other 0"]
    assert f"{finished.path}/runs/all/other/export is gone" in out


def test_one_stage_alone_wants_what_it_reads_to_be_as_it_should_be(finished: Folder) -> None:
    code, _, error = finished.run("--only", "hand", "sft.num_steps=9")
    assert (code, finished.begun) == (2, [])
    assert error == "stage sft has to be done first: num_steps was 3, is 9; leave --only and --from out\n"
    code, out, _ = finished.run("--only", "sft", "sft.num_steps=9")
    assert (code, finished.begun) == (0, ["sft 0"])
    assert table(out)[3][:2] == ["hand", "out of date"]
    finished.run("--from", "other", "sft.num_steps=9")
    assert finished.begun == ["sft 0", "hand 0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_handed_to_the_stage_and_the_same_command_goes_on(folder: Folder, number: int) -> None:
    driver = folder.start()
    wait(folder.brake_in("sft", 4))
    driver.send_signal(number)
    out, error = driver.communicate(timeout=60)
    assert driver.returncode == 75
    assert [row[1] for row in table(out)] == ["finished", "stopped", "waiting", "waiting"]
    assert error == "stopped; go on with: wutong run run.yaml\n"
    stopped_at = int((folder.path / "runs" / "all" / "sft" / "count").read_text())
    folder.release()
    code, out, _ = folder.run()
    assert (code, folder.begun) == (0, ["pretrain 0", "sft 0", f"sft {stopped_at}", "other 0", "hand 0"])
    assert table(out)[:3] == DONE


def test_a_killed_driver_takes_its_stage_along_and_the_same_command_goes_on(folder: Folder) -> None:
    driver = folder.start()
    wait(folder.brake_in("sft", 4))
    driver.kill()
    driver.wait()
    assert folder.records["sft"]["state"] == "running"
    code, out, _ = folder.run("--only", "pretrain")  # while the stage that was left is ending
    assert code == 0
    folder.release()
    code, out, _ = folder.run()
    assert code == 0
    assert folder.begun[:2] == ["pretrain 0", "sft 0"] and folder.begun[3:] == ["other 0", "hand 0"]
    assert int(folder.begun[2].removeprefix("sft ")) >= 4
    assert table(out)[:3] == DONE


def test_a_stage_that_was_done_when_its_driver_was_killed_is_not_done_again(folder: Folder) -> None:
    assert folder.run("--only", "pretrain")[0] == 0
    records = folder.records
    records["pretrain"]["state"] = "running"  # as it is from the start of the process until the driver has seen its end
    (folder.path / "runs" / "all" / "stages.json").write_text(json.dumps(records))
    code, out, _ = folder.run("--only", "pretrain")
    assert (code, folder.begun) == (0, ["pretrain 0"])
    assert table(out)[0] == DONE[0]


def test_a_killed_stage_is_told_and_gone_on_with(folder: Folder) -> None:
    driver = folder.start()
    wait(folder.brake_in("pretrain", 2))
    pid = int((folder.path / "log").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "pretrain: its process was killed by signal 9; the same command goes on" in out
    assert table(out)[0][1] == "failed"
    folder.release()
    assert folder.run()[0] == 0
    assert int(folder.begun[1].removeprefix("pretrain ")) >= 2


def test_wrong_input_of_a_stage_ends_the_run_with_its_line_and_code(folder: Folder) -> None:
    code, out, error = folder.run("other.seed=13")
    assert (code, error) == (2, "13 is no good\n")
    assert [row[1] for row in table(out)] == ["finished", "finished", "failed", "waiting"]


def test_two_drivers_of_one_folder_cannot_collide(folder: Folder) -> None:
    first = folder.start()
    wait(folder.brake_in("pretrain", 1))
    code, out, error = folder.run()
    assert (code, out) == (2, "")
    assert error.startswith(f"{folder.path}/runs/all belongs to a run that is going on: ") and error.count("\n") == 1
    folder.release()
    assert first.wait(60) == 0


def test_a_stage_waits_for_the_process_that_an_earlier_driver_left(folder: Folder) -> None:
    stage = folder.path / "runs" / "all" / "pretrain"
    stage.mkdir(parents=True)
    with (stage / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        driver = folder.start("--only", "pretrain")
        assert driver.stdout is not None
        assert driver.stdout.readline() == "pretrain: a process of an earlier start is still ending; waiting for it\n"
        assert folder.begun == []
    assert driver.wait(60) == 0
    assert folder.begun == ["pretrain 0"]
    assert (stage.with_name("pretrain.1") / "lock").exists(), "a folder that no record knows is moved aside"


def test_what_is_in_the_way_is_not_overwritten(folder: Folder) -> None:
    (folder.path / "handed").mkdir()
    code, _, error = folder.run()
    assert code == 2
    assert error == f"stage hand: to={folder.path}/handed is there already; move it away, or name another place\n"


def test_a_missing_file_is_told_before_anything_starts(folder: Folder) -> None:
    code, out, error = folder.run("other.data.train=nowhere.jsonl")
    assert (code, out, folder.begun) == (2, "", [])
    assert error.startswith("stage other: nowhere.jsonl: no such file or folder")


GUIDE = (ROOT / "docs" / "stages.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("wutong ")]


def test_the_commands_of_the_guide_do_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    folder = Folder(tmp_path)
    begun = []
    for line in LINES:
        _, command, recipe, *arguments = shlex.split(line)
        code, _, error = folder.run(*arguments, recipe=recipe)
        assert command == "run"
        assert (code, error) == (0, ""), line
        begun.append([each.split()[0] for each in folder.begun])
    assert begun == [
        ["pretrain", "sft", "grpo", "evaluate"],
        ["pretrain", "sft", "grpo", "evaluate", "grpo", "evaluate"],
        ["pretrain", "sft", "grpo", "evaluate", "grpo", "evaluate"],
        ["pretrain", "sft", "grpo", "evaluate", "grpo", "evaluate"],
    ]
