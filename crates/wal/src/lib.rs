//! oarlock-wal
