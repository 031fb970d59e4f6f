"""Many adapters under random load, and everything that can happen to them: does anybody get a wrong answer?"""
