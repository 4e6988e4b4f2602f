"""Instruction sets: which product fits a requirement, the next steps after a call, a pitch of a product."""
