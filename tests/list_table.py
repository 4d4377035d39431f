"""Examples of trial lists, enrolment lists and Kaldi directories, for the tests and for docs/formats.md."""

A, B, C = "a/b/c.wav", "a/d/e.wav", "f/g/h.wav"
# Writer of a trial list -> the trials (target, A, B) and (non-target, A, C) in its form.
TRIAL_LISTS = {
    "VoxCeleb": f"1 {A} {B}\n0 {A} {C}\n",
    "several blanks, tabs, Windows line ends and empty lines": f"1  {A}\t{B}\r\n\r\n0 {A} {C}",
    "CN-Celeb, label last": f"{A} {B} 1\n{A} {C} 0\n",
    "Kaldi, 3D-Speaker": f"{A} {B} target\n{A} {C} nontarget\n",
    "labels tgt and imp": f"{A} {B} tgt\n{A} {C} imp\n",
    "label first as a word, upper or lower case": f"target {A} {B}\nNontarget {A} {C}\n",
    "--save_scores": "label,enrol,test,score,enrol_seconds,test_seconds\n"
    f"1,{A},{B},0.5,4.1,3.9\n0,{A},{C},0.1,4.1,5.0\n",
    "--save_scores, two lengths, clean and in noise": "label,enrol,test,length,snr,score,enrol_seconds,test_seconds\n"
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
        "`--trials FILE` of `EER_full.py` and `EER_short.py` detects which of the following forms a file has.",
        "A line of another form is an error that gives the line number. Lists are UTF-8 text; Windows line ends and a",
        "byte order mark are accepted. UTF-16 is an error; `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts it.\n",
        *_examples(TRIAL_LISTS),
        "Lists without labels need `--save_scores FILE`; no error rate is computed:\n",
        *_examples(BLIND_LISTS),
        "These names denote the same utterance. The suffix is `.pkl` or one of a recording. The number of folders",
        "before the speaker is the same for all names of one side of a list.\n",
        *_block("\n".join(NAMES)),
        "## Enrolment lists\n",
        "With `--enroll FILE`, the enrolment side of a trial is a model: the mean of the normalised embeddings of",
        "several utterances. Lines are `MODEL UTTERANCE...`; a model may have several lines.\n",
        *_block(ENROLMENT),
        "## Kaldi data directories\n",
        "`dataprep.py --import_list wav.scp` imports the recordings of the list. Speakers are read from",
        "`--utt2spk FILE`, by default the file `utt2spk` next to the list. A command in place of a path is",
        "an error and is never run. `segments` is not used: full recordings are imported.\n",
    ]
    for name, text in KALDI.items():
        lines += [f"`{name}`:\n", *_block(text)]
    return "\n".join(lines)


def _examples(table: dict[str, str]) -> list[str]:
    return [line for writer, text in table.items() for line in (f"{writer}:\n", *_block(text))]


def _block(text: str) -> list[str]:
    return ["```text", *(line for line in text.splitlines() if line), "```\n"]
