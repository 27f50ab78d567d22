"""The room of the GPU kernels: Triton, one kernel and its host function a file.

Installed as `pdepth.kernels`. It stays empty until the GPU engine arrives; each kernel will stand
beside a plain torch twin that is its oracle. The CPU engine's kernels are C++ and live in csrc/.
"""
