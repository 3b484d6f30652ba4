//! Desired and observed state to a plan, and the plan to reality: idempotent and resumable.
