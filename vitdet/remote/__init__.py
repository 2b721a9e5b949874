"""Files on object storage and on web servers: `s3://…`, `gs://…`, `https://…`, whatever fsspec opens.

A file is asked for again, after growing pauses, where the network or the storage fails; one that comes in part is no
file. Credentials are those of the environment, as the library of each storage finds them; none is logged.
"""

from vitdet.remote.address import Remote, ahead, place
from vitdet.remote.tries import RefusedError, RemoteError

__all__ = ["RefusedError", "Remote", "RemoteError", "ahead", "place"]
