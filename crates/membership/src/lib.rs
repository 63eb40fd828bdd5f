//! oarlock-membership
