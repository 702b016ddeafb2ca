# mypy: disable-error-code="attr-defined"
# ruff: noqa: F401, I001
# fmt: off
"""Part 1 of the tutorial, cell by cell, as it was written for PySyft; only the import differs.

The value at the end of a cell is printed, as a notebook does. `x.send(bob)` is the tutorial's spelling; a type
checker knows `ptrtensor.send(x, bob)`, which hospitals.py uses.
"""

# --- Part 0: does it work?

import sys

import torch
from torch.nn import Parameter
import torch.nn as nn
import torch.nn.functional as F

import ptrtensor as sy
hook = sy.TorchHook(torch)

print(torch.tensor([1,2,3,4,5]))

# --- Part 1: tensors that are here

x = torch.tensor([1,2,3,4,5])
y = x + x
print(y)

# --- 1.1: tensors that are at bob, and the pointers to them

bob = sy.VirtualWorker(hook, id="bob")

x = torch.tensor([1,2,3,4,5])
y = torch.tensor([1,1,1,1,1])

x_ptr = x.send(bob)
y_ptr = y.send(bob)

print(x_ptr)

# bob holds two tensors, and a third once he has added

print(bob._objects)

z = x_ptr + x_ptr

print(z)

print(bob._objects)

# what a pointer knows

print(x_ptr)

print(x_ptr.location)

print(bob)

print(bob == x_ptr.location)

print(x_ptr.id_at_location)

print(x_ptr.owner)

me = sy.local_worker
print(me)

print(me == x_ptr.owner)

# get() brings a tensor back, and bob has it no more

print(x_ptr)

print(x_ptr.get())

print(y_ptr)

print(y_ptr.get())

print(z.get())

print(bob._objects)

# --- 1.2: computing with pointers

x = torch.tensor([1,2,3,4,5]).send(bob)
y = torch.tensor([1,1,1,1,1]).send(bob)

z = x + y

print(z)

print(z.get())

# torch's functions

print(x)

print(y)

z = torch.add(x,y)
print(z)

print(z.get())

# gradients come into being at bob

x = torch.tensor([1,2,3,4,5.], requires_grad=True).send(bob)
y = torch.tensor([1,1,1,1,1.], requires_grad=True).send(bob)

z = (x + y).sum()

print(z.backward())

x = x.get()

print(x)

print(x.grad)
