"""One process held by descriptors."""

import pytest

from shared.model.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import PYTHON, WAIT, running


def test_a_held_process_is_never_mistaken_for_its_successor() -> None:
    with running("import sys\n" + WAIT) as child:
        process = Process(child.pid)
        assert process.facts.path == PYTHON
        assert not process.has_ended()
        assert process.read_image() == process.image
    assert process.has_ended()
    with pytest.raises(AttestationError) as caught:
        process.read_image()
    assert caught.value.reason is Reason.PROCESS_VANISHED
    process.close()
    with pytest.raises(AttestationError):
        Process(child.pid)
