"""Trial lists, enrolment lists and Kaldi directories as they are read: the tests read these examples."""

A, B, C = "a/b/c.wav", "a/d/e.wav", "f/g/h.wav"
# Who writes a trial list -> the trials (target, A, B) and (non-target, A, C) as they do.
TRIAL_LISTS = {
    "VoxCeleb": f"1 {A} {B}\n0 {A} {C}\n",
    "any blanks, line ends and blank lines": f"1  {A}\t{B}\r\n\r\n0 {A} {C}",
    "CN-Celeb, label last": f"{A} {B} 1\n{A} {C} 0\n",
    "Kaldi, 3D-Speaker": f"{A} {B} target\n{A} {C} nontarget\n",
    "tgt and imp": f"{A} {B} tgt\n{A} {C} imp\n",
    "words first, letters of either case": f"target {A} {B}\nNontarget {A} {C}\n",
    "--save_scores": "label,enrol,test,score,enrol_seconds,test_seconds\n"
    f"1,{A},{B},0.5,4.1,3.9\n0,{A},{C},0.1,4.1,5.0\n",
    "--save_scores at two lengths in noise": "label,enrol,test,length,snr,score,enrol_seconds,test_seconds\n"
    + "".join(
        f"1,{A},{B},{n},{snr},0.5,4.1,{n / 100}\n0,{A},{C},{n},{snr},0.1,4.1,{n / 100}\n"
        for n in (100, 200)
        for snr in ("clean", 5)
    ),
}
BLIND_LISTS = {
    "VoxSRC's blind lists": f"{A} {B}\n{A} {C}\n",
    "--save_scores of such a list": "enrol,test,score,enrol_seconds,test_seconds\n"
    f"{A},{B},0.5,4.1,3.9\n{A},{C},0.1,4.1,5.0\n",
}
UTTERANCE = "id1/2020-01-01/2020-01-01_12.30.00001"
NAMES = [  # of that utterance
    UTTERANCE,
    f"{UTTERANCE}.wav",
    f"{UTTERANCE}.flac",
    f"./{UTTERANCE}.wav",
    f"wav/{UTTERANCE}",
    f"/data/voxceleb1/wav/{UTTERANCE}.wav",
    UTTERANCE.replace("/", "\\"),
    "C:\\voices\\" + UTTERANCE.replace("/", "\\") + ".wav",
]
ENROLMENT = f"anna {A} {B}\nfred {C}\n"
KALDI = {"wav.scp": "anna-1 /data/anna 1.wav\nben-1 ../ben.flac\n", "utt2spk": "anna-1 anna\nben-1 ben\n"}


def section() -> str:
    """Return the part of docs/formats.md about lists."""
    lines = [
        "## Trial lists\n",
        "`--trials` of `EER_full.py` and `EER_short.py` takes any of these forms. The form is detected from the",
        "whole file; a line of another form is refused by its number.\n",
        "All lists are text in UTF-8, those of other systems and editors too: line ends may be those of Windows, and a",
        "byte order mark is ignored. Text in UTF-16 is refused; `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts it.\n",
        *_examples(TRIAL_LISTS),
        "Lists without labels are scored with `--save_scores FILE`; there is no error rate.\n",
        *_examples(BLIND_LISTS),
        "An utterance may be named in any of these ways:\n",
        *_block("\n".join(NAMES)),
        "## Enrolment lists\n",
        "With `--enroll FILE` the left sides of the trials are models, each the mean of its utterances' embeddings",
        "of length one. Lines are `MODEL UTTERANCE...`; several lines of one model add up.\n",
        *_block(ENROLMENT),
        "## Kaldi data directories\n",
        "`dataprep.py --import_list wav.scp` imports what the list names; speakers come from `--utt2spk FILE`, or",
        "from the file `utt2spk` stored next to the list. A command in place of a path is refused and never run.",
        "`segments` is not read: recordings are imported whole.\n",
    ]
    for name, text in KALDI.items():
        lines += [f"`{name}`:\n", *_block(text)]
    return "\n".join(lines)


def _examples(table: dict[str, str]) -> list[str]:
    return [line for writer, text in table.items() for line in (f"{writer}:\n", *_block(text))]


def _block(text: str) -> list[str]:
    return ["```text", *(line for line in text.splitlines() if line), "```\n"]
