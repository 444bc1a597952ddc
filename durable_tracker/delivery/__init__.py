"""How events leave the queue: policy, retry and the wire. See `policy` for the loop, `transport` for the seam."""
