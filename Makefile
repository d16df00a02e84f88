# The workshop: `make help`. Every target sets up .venv by itself where it is missing.
PYTHON ?= python3
MODEL ?= tiny
DATA ?= toy
TRAINER ?= cpu
RUN ?= pretrain-$(MODEL)-$(DATA)
WEIGHTS ?= runs/$(RUN)/checkpoints/best.ckpt
ARGS ?=
# A CPU that multiplies in bfloat16 trains the tiny model twice as fast with it.
CPU_BF16 := $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null && echo --trainer.precision=bf16-mixed)
BF16 = $(if $(CPU_BF16),$(if $(filter cpu,$(TRAINER)),--precision bf16))
PRECISION = $(if $(filter cpu,$(TRAINER)),$(CPU_BF16))
CONFIGS = --config conf/model/$(MODEL).yaml --config conf/data/$(DATA).yaml --config conf/trainer/$(TRAINER).yaml
# Models that start from pre-trained towers keep the recipe of conf/; the tiny one has a recipe for each data set.
RECIPE = $(if $(filter tiny,$(MODEL)),$(addprefix --config ,$(wildcard conf/$(DATA)/$(1).yaml)))
TOY = $(if $(filter toy,$(DATA))$(filter tiny,$(MODEL)),toy-data)  # the tiny model has its tokenizer from there
BIN := .venv/bin
# Tasks that start from the weights of RUN.
TASK = --config conf/$(1).yaml --config conf/model/$(MODEL).yaml --config conf/trainer/$(TRAINER).yaml \
	$(addprefix --config ,$(wildcard conf/$(DATA)/$(1).yaml)) $(PRECISION) --model.init_args.weights=$(WEIGHTS)
EVALUATE = $(BIN)/egovlpv2 test $(TASK) --trainer.logger.init_args.name=$(subst _,-,$(1))-$(RUN) $(ARGS)
FINETUNE = $(BIN)/egovlpv2 fit $(TASK) --trainer.logger.init_args.name=finetune-$(subst _,-,$(1))-$(RUN) $(ARGS)
# Heads on frozen features of the weights of RUN, which `make features-...` writes first unless FEATURES names some.
TOY_LONG = $(or $(EGO_TOY),data/toy)/long/videos --chunk-seconds 20 --fps 10 --window 20 --stride 5
ifeq ($(DATA),toy)
features-qfvs: VIDEOS = $(or $(EGO_TOY),data/toy)/qfvs/videos --chunk-seconds 20
endif
VIDEOS ?= $(if $(filter toy,$(DATA)),$(TOY_LONG),$(error VIDEOS=folder says where the videos are))
FOLDER = $(or $(FEATURES),runs/$(RUN)/features/$(1))
# Frames that the model sees of a window of 16: all, as in the paper. The toy world's few, for CPUs; the released code's
# features for NLQ have four: FRAMES=4 FRAME_RULE=released.
FRAMES ?= $(if $(filter toy,$(DATA)),4,16)
FRAME_RULE ?= centre
EXTRACT = $(BIN)/egovlpv2 extract $(VIDEOS) --weights $(WEIGHTS) --out $(call FOLDER,$(1)) \
	$(BF16)
WINDOWS = --frames $(FRAMES) --frame-rule $(FRAME_RULE)
NLQ_FILES ?= $(if $(filter toy,$(DATA)),$(or $(EGO_TOY),data/toy)/nlq,$(or $(EGO_NLQ),data/nlq))/nlq_*.json
HEAD = --config conf/$(1).yaml --config conf/trainer/$(TRAINER).yaml \
	$(addprefix --config ,$(wildcard conf/$(DATA)/$(1).yaml)) --data.init_args.features=$(call FOLDER,$(1))
FINETUNE_HEAD = $(BIN)/egovlpv2 fit $(call HEAD,$(1)) --trainer.logger.init_args.name=finetune-$(1)-$(RUN) $(ARGS)
HEAD_FILE = $(or $(HEAD_WEIGHTS),runs/finetune-$(1)-$(RUN)/checkpoints/best.ckpt)
EVALUATE_HEAD = $(BIN)/egovlpv2 test $(call HEAD,$(1)) --trainer.logger.init_args.name=$(1)-$(RUN) \
	--model.init_args.weights=$(call HEAD_FILE,$(1)) $(ARGS)

# Summaries: four heads, each tested on one video. The trunk of all shots is stored once, then looked at with all prompts.
QFVS_TESTS ?= P01 P02 P03 P04
QFVS_RUN ?= finetune-qfvs-$(RUN)
PROMPTS = $(BIN)/egovlpv2 prompts-qfvs --config conf/qfvs.yaml $(addprefix --config ,$(wildcard conf/$(DATA)/qfvs.yaml)) \
	--out runs/$(RUN)/features/qfvs-prompts.json
FUSE = $(BIN)/egovlpv2 fuse runs/$(RUN)/features/qfvs-trunk --weights $(WEIGHTS) --out $(call FOLDER,qfvs) \
	--queries runs/$(RUN)/features/qfvs-prompts.json $(BF16)
QFVS_TABLE = $(BIN)/egovlpv2 collect $(QFVS_TESTS:%=runs/$(1)/%) --metrics 'qfvs/(random_)?f1$$' --out runs/$(1)/metrics.json
QFVS_HEAD = $(call HEAD,qfvs) --data.init_args.test_video=$$video
# Questions: TUNE=head leaves the backbone frozen, SPLIT=indirect takes the other split; both are in the run's name.
TUNE ?= all
SPLIT ?= direct
TASKQA = $(call TASK,taskqa) --model.init_args.tune=$(TUNE) --data.init_args.split=$(SPLIT)
TASKQA_RUN = taskqa$(if $(filter head,$(TUNE)),-head)$(if $(filter indirect,$(SPLIT)),-indirect)-$(RUN)

# Ablations: the recipe itself, and a run for each overlay of conf/ablation/<group>/; finished runs stay.
ABLATIONS = objectives gate frames pairs
ABLATION_ROWS = $(basename $(notdir $(sort $(wildcard conf/ablation/$(1)/*.yaml))))
ABLATION = ablation-$(MODEL)-$(DATA)
ABLATE = test -f runs/$(ABLATION)/$(1)/metrics.json || $(BIN)/egovlpv2 fit --config conf/pretrain.yaml $(CONFIGS) \
	$(call RECIPE,pretrain) $(addprefix --config ,$(wildcard conf/ablation/$(DATA).yaml) $(2)) $(PRECISION) \
	--trainer.logger.init_args.name=$(ABLATION)/$(1) $(ARGS)
ABLATE_ALL = for row in $(call ABLATION_ROWS,$(1)); do \
	$(call ABLATE,$(1)/$$row,conf/ablation/$(1)/$$row.yaml) || exit 1; done

.DEFAULT_GOAL := help
.PHONY: help setup pretrain evaluate-egomcq evaluate-ek100 evaluate-charades-ego finetune-ek100 finetune-charades-ego \
	features-nlq features-mq finetune-nlq finetune-mq evaluate-nlq evaluate-mq \
	features-qfvs finetune-qfvs evaluate-qfvs finetune-taskqa evaluate-taskqa \
	ablation-fusion $(ABLATIONS:%=ablation-%) toy-data test test-full test-matrix lint bench tensorboard

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-24s%s\n", $$1, $$2}'
	@echo
	@echo '  MODEL=tiny|small|base DATA=toy|own|egoclip TRAINER=cpu|gpu|a100x8|a100x32 RUN=name WEIGHTS=path ARGS="--more.options=1"'

setup: $(BIN)/.ready  ## make .venv with this package and all it needs
$(BIN)/.ready: setup.cfg pyproject.toml
	@echo 'installing into .venv: some 6 GB of packages, minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

toy-data: setup  ## render the toy world into data/toy, with a contact sheet to look at
	$(BIN)/egovlpv2 toy-data --out $(or $(EGO_TOY),data/toy)

pretrain: setup $(TOY)  ## pre-train, by default the tiny model on the toy world: about 10 minutes on 2 cores
	$(BIN)/egovlpv2 fit --config conf/pretrain.yaml $(CONFIGS) $(call RECIPE,pretrain) $(PRECISION) --trainer.logger.init_args.name=$(RUN) $(ARGS)

evaluate-egomcq: setup $(TOY)  ## EgoMCQ with the weights of that run, or with WEIGHTS=path
	$(BIN)/egovlpv2 test --config conf/egomcq.yaml $(CONFIGS) $(PRECISION) --trainer.logger.init_args.name=egomcq-$(RUN) \
		--model.init_args.weights=$(WEIGHTS) $(ARGS)

evaluate-ek100: setup $(TOY)  ## EPIC-Kitchens-100 retrieval with the weights of RUN, or with WEIGHTS=path
	$(call EVALUATE,ek100)

evaluate-charades-ego: setup $(TOY)  ## CharadesEgo, likewise
	$(call EVALUATE,charades_ego)

finetune-ek100: setup $(TOY)  ## fine-tune those weights on EPIC-Kitchens-100 retrieval: minutes on the toy world
	$(call FINETUNE,ek100)

finetune-charades-ego: setup $(TOY)  ## fine-tune them on CharadesEgo
	$(call FINETUNE,charades_ego)

features-nlq: setup $(TOY)  ## features for NLQ of VIDEOS=folder with the weights of RUN: what is there stays
	$(if $(FEATURES),,$(call EXTRACT,nlq) --kind fused --queries $(NLQ_FILES) $(WINDOWS))

features-mq: setup $(TOY)  ## features for MQ, likewise
	$(if $(FEATURES),,$(call EXTRACT,mq) --kind projected $(WINDOWS))

finetune-nlq: features-nlq  ## train VSLNet for Ego4D NLQ on those features (or FEATURES=folder)
	$(call FINETUNE_HEAD,nlq)

finetune-mq: features-mq  ## train VSGN for Ego4D MQ
	$(call FINETUNE_HEAD,mq)

evaluate-nlq: features-nlq  ## test what `make finetune-nlq` left, or HEAD_WEIGHTS=path
	$(call EVALUATE_HEAD,nlq)

evaluate-mq: features-mq  ## likewise
	$(call EVALUATE_HEAD,mq)

features-qfvs: setup $(TOY)  ## features of the shots of QFVS, for all its prompts: what is there stays
	$(if $(FEATURES),,$(call EXTRACT,qfvs-trunk) --kind trunk --fps 1 --window 5 --stride 5 --frames 5)
	$(if $(FEATURES),,$(PROMPTS))
	$(if $(FEATURES),,$(FUSE))

finetune-qfvs: features-qfvs  ## train four summary heads, each tested on the video it was kept from: F1 and their mean
	for video in $(QFVS_TESTS); do $(BIN)/egovlpv2 fit $(QFVS_HEAD) \
		--trainer.logger.init_args.name=$(QFVS_RUN)/$$video $(ARGS) || exit 1; done
	$(call QFVS_TABLE,$(QFVS_RUN))

evaluate-qfvs: features-qfvs  ## test those four heads once more
	for video in $(QFVS_TESTS); do $(BIN)/egovlpv2 test $(QFVS_HEAD) \
		--model.init_args.weights=$(or $(HEAD_WEIGHTS),runs/$(QFVS_RUN)/$$video/checkpoints/best.ckpt) \
		--trainer.logger.init_args.name=evaluate-$(QFVS_RUN)/$$video $(ARGS) || exit 1; done
	$(call QFVS_TABLE,evaluate-$(QFVS_RUN))

finetune-taskqa: setup $(TOY)  ## fine-tune the weights of RUN on EgoTaskQA; TUNE=head leaves the backbone frozen
	$(BIN)/egovlpv2 fit $(TASKQA) --trainer.logger.init_args.name=finetune-$(TASKQA_RUN) $(ARGS)

evaluate-taskqa: setup $(TOY)  ## test what `make finetune-taskqa` left, or WEIGHTS=path
	$(BIN)/egovlpv2 test $(TASKQA) --trainer.logger.init_args.name=$(TASKQA_RUN) \
		$(if $(filter file,$(origin WEIGHTS)),--model.init_args.weights=runs/finetune-$(TASKQA_RUN)/checkpoints/best.ckpt) \
		$(ARGS)

$(ABLATIONS:%=ablation-%): ablation-%: setup $(TOY)
	$(call ABLATE,full)
	$(call ABLATE_ALL,$*)
	$(BIN)/egovlpv2 collect runs/$(ABLATION)/full $(addprefix runs/$(ABLATION)/$*/,$(call ABLATION_ROWS,$*)) \
		--metrics '^test/egomcq' --no-mean --out runs/$(ABLATION)/$*.json --plot runs/$(ABLATION)/$*.png

ablation-fusion: setup $(TOY)  ## fusion in the backbone against stacked layers; also ablation-objectives, -gate, -frames, -pairs
	$(if $(filter tiny,$(MODEL)),,$(error the rows of conf/ablation/fusion are quarters of the 4 layers of MODEL=tiny))
	$(call ABLATE,full)
	$(call ABLATE_ALL,fusion)
	$(BIN)/egovlpv2 ablation-fusion --config conf/model/base.yaml --runs runs/$(ABLATION) \
		--out runs/$(ABLATION)/fusion.json --plot runs/$(ABLATION)/fusion.png

test: setup  ## the tests, in minutes
	$(BIN)/pytest -n 2

test-full: setup  ## all tests, slow ones too
	$(BIN)/pytest -n 2 -m ""

test-matrix:  ## lint, the fast core of the tests and a fit on every Python at hand (ARGS="3.12 lowest": some of them)
	$(PYTHON) tests/matrix.py $(ARGS)

lint: setup  ## ruff
	$(BIN)/ruff check .

# glibc would hand each large tensor's memory back and fetch it anew, page by page: a tenth of a base-size step.
KEEP_MEMORY = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456
bench: setup  ## the hot paths against their bounds
	$(KEEP_MEMORY) $(BIN)/egovlpv2 bench $(ARGS)

tensorboard: setup  ## the curves of all runs
	$(BIN)/tensorboard --logdir runs
