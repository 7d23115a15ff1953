"""The one error type a user may see from the runtime: a code, what happened, and the way out."""


class NetcError(Exception):
    """A mistake the user can mend, never a bug of ours.

    code: `E` and four digits, explained by `netc explain CODE`.
    message: what is wrong, in the user's words. hint: what to do about it.
    where: the file (and line) it is about, if any.
    """

    def __init__(self, code: str, message: str, hint: str | None = None, where: str | None = None):
        super().__init__(message)
        self.code, self.message, self.hint, self.where = code, message, hint, where

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"  = help: {self.hint}")
        return "\n".join(lines)
