"""What runs inside the WASM sandbox: Python for WASI with this module, frozen after its imports.

Sources can import what is imported here, and nothing else: the interpreter has no files to load more from.
"""

# ruff: noqa: F401
import abc
import ast
import base64
import bisect
import calendar
import cmath
import collections
import collections.abc
import contextlib
import copy
import csv
import dataclasses
import datetime
import decimal
import difflib
import enum
import fractions
import functools
import hashlib
import heapq
import hmac
import html
import inspect
import io
import itertools
import json
import math
import numbers
import operator
import os
import pprint
import random
import re
import statistics
import string
import struct
import sys
import textwrap
import time
import traceback
import types
import typing
import unicodedata
import uuid
import zlib

import python_answer
import wit_world


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]
    """The world of wasm_grading.wit."""

    def grade(self, source: str, sample: str, item: str) -> str:
        """See there."""
        random.seed()  # the frozen state would be the same in each call
        try:
            module = python_answer.load(source)
        except BaseException as error:
            return json.dumps({"error": python_answer.described(error)})
        return json.dumps(python_answer.graded(module, json.loads(sample), json.loads(item)))
