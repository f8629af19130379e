//! What an operating system gives drupe.
