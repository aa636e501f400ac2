"""The sizes and protocols of the two reports, and the sound protocols beside them."""

from muse_bench.analysis.claims.question import Question
from muse_bench.config import Logits, Mode, Optimizer, Sizes

REFERENCE = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)
LARGE = Sizes(vocab_size=50_000, d_model=1_024, n_layers=12, n_heads=16, seq_len=2_048)
LARGE_MUSE = Sizes(vocab_size=50_257, d_model=1_024, n_layers=12, n_heads=16, seq_len=2_048)  # that was measured
SHALLOW = Sizes(vocab_size=10_000, d_model=512, n_layers=4, n_heads=8, seq_len=1_024)
WIDE = Sizes(vocab_size=50_000, d_model=1_024, n_layers=6, n_heads=16, seq_len=512)
TABLE = Sizes(vocab_size=50_257, d_model=1_024, n_layers=1, n_heads=8, seq_len=512)

ONE_STEP = "logits.sum().backward(), no optimizer, the first step of a process; workspaces count"
ONE_PASS = "one forward pass without gradients; workspaces count"
CROSS_ENTROPY = "cross-entropy and backward, no optimizer; workspaces count"


def ask(
    model: str,
    mode: Mode,
    sizes: Sizes = REFERENCE,
    batch: int = 1,
    *,
    logits: Logits = "all",
    optimizer: Optimizer | None = None,
    micro_batch: int | None = None,
) -> Question:
    """A question in few words."""
    return Question(
        model=model,
        sizes=sizes,
        batch=batch,
        mode=mode,
        logits=logits,
        optimizer=optimizer,
        micro_batch=micro_batch,
    )


def one_step(model: str, sizes: Sizes = REFERENCE, batch: int = 2) -> Question:
    """The reports' protocol of training."""
    return ask(model, "forward-backward", sizes, batch)


def one_pass(model: str, sizes: Sizes = REFERENCE) -> Question:
    """The reports' protocol of inference."""
    return ask(model, "inference", sizes)


def training(model: str, sizes: Sizes = REFERENCE, batch: int = 2) -> Question:
    """The sound protocol of training: causal, cross-entropy, an optimizer, the steady state."""
    return ask(model, "train", sizes, batch)


def last_logits(model: str, sizes: Sizes = REFERENCE) -> Question:
    """Reading a prompt up to the logits of its last token, which generating text needs."""
    return ask(model, "inference", sizes, logits="last")
