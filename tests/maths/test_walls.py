"""chatlib.maths stands alone: it needs torch and nothing else."""

import subprocess
import sys

HEAVY = ("deepspeed", "transformers", "datasets", "pandas", "matplotlib", "pydantic")


def test_maths_imports_torch_only():
    code = (
        "import sys\n"
        "from chatlib.maths import attention, likelihood, policy, preference\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
