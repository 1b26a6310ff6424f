"""Models and data: what there is (``catalog``), how it gets here (``download``), where it is kept
and verified (``store``)."""

from helpers.assets.store import bundle, course_home, derived, fetch, status

__all__ = ["bundle", "course_home", "derived", "fetch", "status"]
