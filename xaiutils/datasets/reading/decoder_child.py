"""The process in which native decoders run that may end the process they are in (gdcm, calamine).

Started as a script by `decoder_process`, so that it imports neither xaiutils nor TensorFlow. Each request is a line of
JSON; the answer is a line of JSON, then as many bytes as it says.
"""

import contextlib
import json
import os
import sys

_MEMORY = 6 * 2**30  # bytes of address space, of which the libraries take one or two


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            head, data = _TASKS[request["task"]](request["path"])
        except BaseException as error:  # a panic in Rust is no Exception
            head, data = {"error": f"{type(error).__name__}: {error}"[:500]}, b""
        answers.write(json.dumps({**head, "bytes": len(data)}).encode() + b"\n")
        answers.write(data)
        answers.flush()


def decode_dicom(path: str) -> tuple[dict, bytes]:
    """The first frame of a DICOM file, by gdcm."""
    import pydicom
    from pydicom.pixels import pixel_array

    pixels = pixel_array(pydicom.dcmread(path, force=True), index=0, decoding_plugin="gdcm")
    return {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels.tobytes()


def read_sheet(path: str) -> tuple[dict, bytes]:
    """The first sheet of an Excel file: rows of texts, numbers and null."""
    from python_calamine import CalamineWorkbook

    rows = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python(skip_empty_area=False)
    return {}, json.dumps(rows, default=str).encode()


_TASKS = {"dicom": decode_dicom, "sheet": read_sheet}

if __name__ == "__main__":
    main()
