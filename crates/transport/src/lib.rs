//! oarlock-transport
