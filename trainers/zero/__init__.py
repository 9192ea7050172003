"""DeepSpeed's ZeRO behind one door: no other room or file imports deepspeed.

What all ranks share is entered by all ranks together, in the same order.
"""
