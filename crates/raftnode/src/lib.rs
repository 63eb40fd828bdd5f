//! oarlock-raftnode
