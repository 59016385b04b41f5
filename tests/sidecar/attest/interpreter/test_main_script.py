"""Which script an interpreter's arguments name."""

import pytest

from sidecar.attest.interpreter.main_script import find_main_script, is_interpreter


@pytest.mark.parametrize(
    ("path", "command", "expected"),
    [
        ("/usr/bin/python3.11", "python app.py -c x", "app.py"),
        ("/usr/bin/python3.11", "python -X dev -Wignore -u /app.py", "/app.py"),
        ("/usr/bin/python3.11", "python -m http.server", None),
        ("/usr/bin/python3.11", "python -Ic code", None),
        ("/usr/bin/python3.11", "python -", None),
        ("/usr/bin/python3.11", "python", None),
        ("/bin/bash", "bash -e -o pipefail run.sh", "run.sh"),
        ("/bin/bash", "bash -ec code", None),
        ("/usr/bin/perl", "perl -w run.pl", "run.pl"),
        ("/usr/bin/perl", "perl -ne code", None),
        ("/usr/bin/node", "node --require=x server.js", "server.js"),
        ("/usr/bin/node", "node -e code", None),
        ("/usr/bin/java", "java -Xmx1g -cp lib -jar app.jar", "app.jar"),
        ("/usr/bin/java", "java Main", None),
        ("/usr/bin/mawk", "awk -f prog.awk data", "prog.awk"),
        ("/usr/bin/mawk", "awk {print} data", None),
        ("/usr/bin/php8.2", "php index.php", "index.php"),
        ("/usr/bin/php8.2", "php -r code", None),
        ("/lib64/ld-linux-x86-64.so.2", "ld.so ./prog", "./prog"),
        ("/usr/bin/guile", "guile x.scm", None),
    ],
)
def test_the_script_is_found_or_doubt_means_none(path: str, command: str, expected: str | None) -> None:
    found = find_main_script(path, [word.encode() for word in command.split()])
    assert found == (None if expected is None else expected.encode())


def test_a_program_is_no_interpreter() -> None:
    assert is_interpreter("/usr/bin/python3.11 (deleted)")
    assert not is_interpreter("/usr/sbin/nginx")
