"""Leave a machine before the cloud takes it: notices of preemption, and the drain of this machine's Ray node."""
