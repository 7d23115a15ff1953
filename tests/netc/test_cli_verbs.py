"""Each verb as a user has it: its help, what it prints, its JSON, its files and its exit codes."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest

from netc.cli import VERBS
from tests.netc.command import SPECS, netc, process
from tests.netc.conftest import TINY, write_tiny


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_it_does_and_has_an_example(verb):
    done = netc(verb, "--help")
    assert done.code == 0 and done.out.startswith("Usage: netc " + verb)
    assert f"netc {verb}" in done.out.partition("\nExamples:\n")[2] or f"netc {verb}" in done.out.partition("\n  Examples:\n")[2]


def test_help_lists_every_verb():
    done = netc("--help")
    assert done.code == 0 and all(f"  {verb} " in done.out for verb in VERBS)


def test_check():
    done = netc("check", SPECS / "digits.net", SPECS / "inception.net")
    assert done.code == 0 and "no errors" in done.out and done.err == ""
    assert json.loads(netc("check", "--json", SPECS / "digits.net").out) == []


def test_check_json_of_a_wrong_file(tmp_path):
    (tmp_path / "x.net").write_text(TINY.replace("dense", "dens"))
    done = netc("check", "--json", "x.net", cwd=tmp_path)
    found = json.loads(done.out)
    assert done.code == 1 and found[0]["code"] == "E0203" and found[0]["severity"] == "error"


def test_fmt(tmp_path):
    write_tiny(tmp_path, TINY.replace("  logits = x", " logits=x"))
    assert netc("fmt", "--check", "tiny.net", cwd=tmp_path).code == 1
    assert netc("fmt", "tiny.net", cwd=tmp_path).code == 0
    assert netc("fmt", "--check", "tiny.net", cwd=tmp_path).code == 0
    assert "  logits = x" in (tmp_path / "tiny.net").read_text()


def test_show():
    text = netc("show", SPECS / "lenet.net").out
    assert "431,080" in text and "logits/conv1" in text
    found = json.loads(netc("show", SPECS / "lenet.net", "--json", "--batch", 2).out)
    assert found["totals"]["params"] == 431_080 == sum(row["params"] for row in found["layers"])
    assert found["totals"].keys() == {"params", "macs", "bytes"}
    assert found["totals"]["macs"] == 2 * json.loads(netc("show", SPECS / "lenet.net", "--json").out)["totals"]["macs"]


@pytest.mark.parametrize("mode", [[], ["run"], ["evaluate"], ["step"]])
def test_show_ir_reads_back(mode):
    from compiler.text import from_text, to_text
    from compiler.verify import verify
    text = netc("show", SPECS / "digits.net", "--ir", *mode).out
    assert to_text(verify(from_text(text))) == text


def test_ops_and_explain():
    assert {"conv", "dense"} <= {op["name"] for op in json.loads(netc("ops", "--json").out)}
    assert "stride" in netc("ops", "conv").out
    assert netc("explain", "e0203").out.startswith("## E0203")
    assert "E0603" in netc("explain", "--list").out


def test_inspect(made):
    text = netc("inspect", made / "tiny.netb").out
    assert "net       tiny" in text and "x: float32[N, 3]" in text and "host.o" in text
    manifest = json.loads(netc("inspect", made / "step.netb", "--json").out)
    assert manifest["programs"].keys() == {"run", "evaluate", "step"}
    assert netc("inspect", made / "tiny.netb", "--extract", "source/0-tiny.net").out == TINY


def test_run_prints_writes_and_compares(made, tmp_path):
    run = ["run", made / "tiny.netb", "--input", f"x=@{made / 'x.npy'}"]
    assert "p: float32[5, 2]" in netc(*run).out
    p = np.array(json.loads(netc(*run, "--json").out)["p"])
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert netc(*run, "--output", "p=@p.npy", cwd=tmp_path).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), p, rtol=1e-6)
    done = netc(*run, "--expect", "p=@p.npy", cwd=tmp_path)
    assert done.code == 0 and "as expected" in done.out
    np.save(tmp_path / "q.npy", np.load(tmp_path / "p.npy") + [[0, 1e-3]] * 5)
    done = netc(*run, "--expect", "p=q.npy", cwd=tmp_path)
    assert done.code == 1 and "not as expected, largest difference 0.001" in done.err
    assert netc(*run, "--expect", "p=q.npy", "--atol", "1e-2", cwd=tmp_path).code == 0
    np.save(tmp_path / "nan.npy", np.full((5, 2), np.nan))
    assert netc(*run, "--expect", "p=nan.npy", cwd=tmp_path).code == 1
    assert netc(*run, "--expect", f"p={made / 'x.npy'}", cwd=tmp_path).code == 1


def test_run_on_an_image(tmp_path):
    assert netc("compile", SPECS / "mlp.net", "-o", "mlp.netb", cwd=tmp_path).code == 0
    done = netc("run", "mlp.netb", "--input", f"image={SPECS / 'data' / 'digit-7.png'}", cwd=tmp_path)
    assert done.code == 0 and "p: float32[1, 10]" in done.out


def test_train_test_and_compile_with_what_was_learned(tmp_path):
    write_tiny(tmp_path)
    done = netc("train", "tiny.net:fit", "--out", "first", cwd=tmp_path)
    assert done.code == 0 and "best.safetensors" in done.out
    assert netc("train", "tiny.net", "--out", "first", cwd=tmp_path).code == 1  # a run is there already
    assert netc("train", "tiny.net", "--out", "first", "--fresh", "--quiet", cwd=tmp_path).code == 0
    done = netc("compile", "tiny.net", "--params", "first/best.safetensors", cwd=tmp_path)
    assert done.code == 0 and "warning" not in done.err
    from_artifact = json.loads(netc("test", "tiny.netb", "--json", cwd=tmp_path).out)
    from_source = json.loads(netc("test", "tiny.net", "--params", "first/best.safetensors", "--json", cwd=tmp_path).out)
    assert from_artifact["examples"] == 8 and from_artifact["values"] == from_source["values"]


def test_a_seed_decides_the_first_weights(made, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert netc("compile", made / "tiny.net", "--seed", seed, "-o", f"{name}.netb", cwd=tmp_path).code == 0
    a, b, c = ((tmp_path / f"{name}.netb").read_bytes() for name in "abc")
    assert a == b != c


def test_time(made):
    found = json.loads(netc("time", made / "step.netb", "--train", "--batch", 4, "--json").out)
    assert found["total_ms"] > 0 and {k["part"] for k in found["kernels"]} == {"forward", "backward", "update"}


def test_time_by_layers_stands_beside_what_is_predicted_and_possible(made):
    found = json.loads(netc("time", made / "step.netb", "--train", "--layers", "--json", "--threads", 1).out)
    assert all(k["predicted_ms"] > 0 for k in found["kernels"]) and found["peak_gflops"] > 0.1
    table = netc("time", made / "tiny.net", "--layers", "--threads", 1).out
    for heading in ("predicted", "GFLOP/s", "of peak", "KB"):
        assert heading in table


def test_interrupted_training_ends_in_a_checkpoint(tmp_path):
    write_tiny(tmp_path, TINY.replace("2 epochs", "100000 epochs"))
    running = process("train", "tiny.net", cwd=tmp_path)
    for line in running.stdout:
        if line.startswith("epoch"):
            running.send_signal(signal.SIGINT)
            break
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in err
    assert (tmp_path / "runs" / "tiny" / "last.safetensors").exists()


def test_an_interrupt_anywhere_is_no_traceback(tmp_path):
    write_tiny(tmp_path)
    running = process("compile", "tiny.net", cwd=tmp_path)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    # Python's own answer stands in for ours where it has not begun, or has ended, to run our code.
    assert running.returncode in (130, 0, -signal.SIGINT) and "Traceback" not in err, err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tiny")] == []
