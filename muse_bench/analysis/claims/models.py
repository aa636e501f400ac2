"""Rules about one model: its peak, reduction, time and quality, and the four figures of each run in the report."""

from muse_bench.analysis.claims.figures import (
    BeforeStep,
    Figure,
    Peak,
    PeakLessBefore,
    QualityLoss,
    Reduction,
    Slowdown,
)
from muse_bench.analysis.claims.question import Question
from muse_bench.analysis.claims.rule import Rule, numbered
from muse_bench.analysis.claims.sizes import ONE_PASS, ONE_STEP, last_logits, one_pass, one_step, training

HALF = "encoder+dtype=fp16"
BOTH = 2  # handles of cuBLAS in a process that has trained: those of the forward and of the backward thread
TWO_MODES = (
    "An inference peak is divided by a training baseline, which is no reduction; like for like, workspaces apart, with "
    "our kernels it is {sound}."
)
MUSE_TRAINING = Reduction(training("muse"), "baseline", apart=True)
MUSE_READING = Reduction(last_logits("muse"), "baseline", apart=True)


def trained_less(level: str) -> Rule:
    """A level's reduction in training."""
    return Rule(
        protocol=ONE_STEP,
        theirs=Reduction(one_step(level), "encoder"),
        sound=Reduction(training(level), "baseline", apart=True),
        ours=MUSE_TRAINING,
        better="more",
        reason="On its own terms it is {theirs}, in FP16 against an FP32 encoder that sees the future; of a training "
        "step with workspaces apart {sound}. What that costs in quality are F15 to F18.",
    )


def read_less(question: Question, more: str = "", ours: Figure | None = MUSE_READING) -> Rule:
    """A reduction at inference, which the report took from two modes."""
    return Rule(
        protocol="inference, divided by the peak of training",
        sound=Reduction(question, "baseline", apart=True),
        ours=ours,
        refused=True,
        better="more",
        reason=TWO_MODES + more,
    )


def read_slower(level: str) -> Rule:
    """A level's time at inference."""
    return Rule(
        protocol="time of one forward pass against the FP32 encoder",
        theirs=Slowdown(one_pass(level), "encoder"),
        ours=Slowdown(last_logits("muse"), "baseline"),
        better="less",
        caveat=True,
        reason="Measured, {theirs} the encoder's time at batch 1: a pass this small waits for its launches.",
    )


def trained_slower(level: str) -> Rule:
    """A level's time in training."""
    return Rule(
        protocol="time of a training step against the FP32 encoder",
        theirs=Slowdown(one_step(level), "encoder"),
        sound=Slowdown(training(level), "baseline"),
        ours=Slowdown(training("muse"), "baseline"),
        better="less",
        caveat=True,
        reason="Measured, {theirs} the encoder's time at batch 2, and {sound} in training: a step this small waits for "
        "its launches, and muse's are one CUDA graph.",
    )


def worse_by(model: str) -> Rule:
    """What a model loses in quality."""
    return Rule(
        protocol="perplexity of models that had not been trained, the vocabulary's size",
        sound=QualityLoss(model),
        ours=QualityLoss("muse"),
        settles="sound",
        better="less",
        reason="Trained on equal tokens of text, each at the best rate tried of it, its perplexity differs by {sound} "
        "from baseline's.",
    )


def of_encoder(first: int, question: Question, workspaces: int) -> dict[str, Rule]:
    """Peak, reduction, what is there before the step, and the rest, of one run of the encoder."""
    trains = question.mode == "forward-backward"
    sound = training("baseline") if trains else one_pass("baseline")
    if question.model == HALF:
        sound = sound.of("baseline+dtype=fp16")
    protocol = ONE_STEP if trains else ONE_PASS
    held = f"{workspaces} of which are left by earlier runs of the process" if workspaces else "none of them taken yet"
    rules = (
        Rule(
            protocol=protocol,
            theirs=Peak(question),
            sound=Peak(sound, apart=True),
            reason="A fresh process takes {theirs}, workspaces included; baseline, causal, workspaces apart, {sound}"
            + (" in training." if trains else "."),
        ),
        Rule(
            protocol=protocol,
            theirs=Reduction(question, "encoder"),
            sound=Reduction(sound, "baseline", apart=True),
            reason="In fresh processes it is {theirs}.",
        ),
        Rule(
            protocol=f"allocated before the step; workspaces: {held}",
            theirs=BeforeStep(question, workspaces),
            caveat=workspaces > 0,
            reason=f"Parameters as the allocator rounds them and {workspaces} workspaces come to {{theirs}}.",
        ),
        Rule(
            protocol="the peak less what is allocated before the step",
            theirs=PeakLessBefore(question, workspaces),
            reason="In a fresh process {theirs}; it counts gradients, and workspaces not taken before, as activations.",
            caveat=True,
        ),
    )
    return numbered("F", first, rules)


def of_level(first: int, question: Question, as_run: Question) -> dict[str, Rule]:
    """The same of a level; its reduction at inference was taken from two modes."""
    trains = question.mode == "forward-backward"
    sound = training(question.model) if trains else question
    ours: Figure = Peak(training("muse") if trains else last_logits("muse"), apart=True)
    protocol = ONE_STEP if trains else ONE_PASS
    reduction = trained_less(question.model) if trains else read_less(question)
    rules = (
        Rule(
            protocol=protocol,
            theirs=Peak(question),
            sound=Peak(sound, apart=True),
            ours=ours,
            better="less",
            reason="With our kernels {theirs}, workspaces included; "
            + ("a training step, workspaces apart, takes {sound}." if trains else "workspaces apart, {sound}."),
        ),
        reduction,
        Rule(
            protocol="allocated before the step, in a process that has trained",
            theirs=BeforeStep(as_run, BOTH),
            sound=BeforeStep(as_run, 0),
            ours=BeforeStep(one_step("muse") if trains else last_logits("muse"), 0),
            caveat=True,
            reason="Parameters are {sound} of it; the rest is two workspaces of cuBLAS, which every model has.",
        ),
        Rule(
            protocol="the peak less what is allocated before the step",
            theirs=PeakLessBefore(question, BOTH),
            better="less",
            caveat=True,
            reason="With our kernels {theirs}; it counts gradients as activations.",
        ),
    )
    return numbered("F", first, rules)
