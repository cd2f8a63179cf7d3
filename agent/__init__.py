"""Kernelwright."""
