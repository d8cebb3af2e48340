"""The chapters of the contract; use them through ``testing.contract``."""
