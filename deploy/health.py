"""Whether a container does its part, `python health.py ray-head|worker|api [PORT]`: exit status 0 if so."""

import socket
import sys
from http.client import HTTPConnection


def ray_head(port: int) -> bool:
    """The cluster takes connections."""
    socket.create_connection(("127.0.0.1", port), timeout=3).close()
    return True


def worker() -> bool:
    """The supervisor of this machine has lately reported that a job would start at once, or is at work."""
    from common.settings import read_settings
    from common.store.client import connect
    from common.store.supervisors import SupervisorStore

    settings = read_settings()
    assert settings.redis_url is not None
    reports = SupervisorStore(connect(settings.redis_url, retries=1)).fresh()
    return any(report.ready for report in reports if report.host == socket.gethostname())


def api(port: int) -> bool:
    """It answers, and so does its Redis."""
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    connection.request("GET", "/readyz")
    return connection.getresponse().status == 200


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ray-head", port]:
            sys.exit(not ray_head(int(port)))
        case ["worker"]:
            sys.exit(not worker())
        case ["api", port]:
            sys.exit(not api(int(port)))
        case _:
            sys.exit(__doc__)
