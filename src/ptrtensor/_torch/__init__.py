"""Every private or untyped call into torch, precisely typed: the one place for `type: ignore`.

What torch may change between releases is used here and nowhere else.
"""
