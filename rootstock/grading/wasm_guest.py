"""What runs inside the WASM sandbox: Python for WASI with this module, frozen after its imports.

Sources can import what is imported here, and nothing else: the interpreter has no files to load more from.
"""

# ruff: noqa: F401
import _strptime  # type: ignore[import-not-found]
import abc
import argparse
import ast
import base64
import binascii
import bisect
import calendar
import cmath
import codecs
import collections
import collections.abc
import contextlib
import contextvars
import copy
import copyreg
import csv
import dataclasses
import datetime
import decimal
import difflib
import email
import email.message
import email.parser
import email.policy
import encodings.ascii
import encodings.cp1252
import encodings.idna
import encodings.latin_1
import encodings.punycode
import encodings.raw_unicode_escape
import encodings.unicode_escape
import encodings.utf_8_sig
import encodings.utf_16
import encodings.utf_32
import enum
import fnmatch
import fractions
import functools
import graphlib
import hashlib
import heapq
import hmac
import html
import html.entities
import html.parser
import inspect
import io
import ipaddress
import itertools
import json
import keyword
import locale
import logging
import math
import mimetypes
import numbers
import operator
import os
import os.path
import pathlib
import pprint
import queue
import random
import re
import reprlib
import secrets
import shlex
import statistics
import string
import stringprep
import struct
import sys
import tempfile
import textwrap
import threading
import time
import timeit
import token
import tokenize
import traceback
import types
import typing
import unicodedata
import unittest
import urllib.error
import urllib.parse
import uuid
import warnings
import weakref
import xml.dom.minidom
import xml.etree.ElementTree
import xml.sax
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
