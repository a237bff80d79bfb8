"""The tables of a benchmark in a terminal."""

from batchnorm.cli.speeds import print_speeds
from report import sample_bench


def test_no_number_of_a_gpu_is_cut_off(capsys):
    print_speeds(sample_bench.gpu(), [], as_json=False)
    printed = capsys.readouterr().out
    assert "…" not in printed
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    wanted = (
        "32×64×112×112 both 6.43 10.7 ±5 % 0.500 96 % 3.0x 9e-7 8.04 ±5 % 128 % "
        "32.2 ±5 % 0.500 32 % cuDNN 3e-7"
    )
    assert any(line.startswith(wanted) for line in lines)
    assert "256×3×224×224 cl both 100 ±5 % 1.5x 150 ±5 %" in lines
    assert any("Imagined GPU. cl: channels-last" in line for line in lines)
    assert "host ms: what the host takes to ask for it" in printed
