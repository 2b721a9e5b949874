"""Recognising folders of labelled images, and reading annotation formats other than COCO's."""
