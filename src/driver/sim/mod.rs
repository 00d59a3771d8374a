//! A scripted driver that plays faults to the loop (being furnished).
